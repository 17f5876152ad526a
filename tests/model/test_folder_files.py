"""Where a folder has its weights; what is refused before anything is read, whatever its bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from puna.errors import ModelFolderError
from puna.model.folder_files import HEADER_BYTES, WEIGHTS, model_folder, weight_files
from puna.model.transformer import Transformer
from puna.model.weights import read_config, read_model, write_model


@pytest.fixture
def folder(small_model: Callable[..., Transformer], tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    write_model(path, small_model())
    return path


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"is no model folder: .* it is not there"):
        model_folder(tmp_path / "nowhere")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFolderError, match=r"is a file .*; puna import .*m\.gguf OUT makes"):
        model_folder(tmp_path / "m.gguf")


def cache(tmp_path: Path, folder: Path, *snapshots: str) -> Path:
    """A folder of the hub's cache with copies of the model as snapshots."""
    home = tmp_path / "models--x--y"
    for name in snapshots:
        place = home / "snapshots" / name
        place.mkdir(parents=True)
        for path in folder.iterdir():
            (place / path.name).symlink_to(path)
    return home


def test_the_hub_s_cache_says_which_snapshot_is_the_newest(tmp_path: Path, folder: Path) -> None:
    home = cache(tmp_path, folder, "aa", "bb")
    with pytest.raises(ModelFolderError, match=r"with 2 snapshots and no refs/main"):
        read_config(home)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("bb\n")
    assert model_folder(home) == home / "snapshots" / "bb"
    (home / "refs" / "main").write_text("../../model")
    with pytest.raises(ModelFolderError, match="with 2 snapshots"):
        model_folder(home)


def test_links_of_the_cache_stay_in_it(tmp_path: Path, folder: Path) -> None:
    """The snapshot's links here lead to another folder beside the cache."""
    home = cache(tmp_path, folder, "aa")
    with pytest.raises(ModelFolderError, match=r"config\.json is a link to .* lies outside"):
        read_model(home)
    folder.rename(home / "blobs")
    for link in (home / "snapshots" / "aa").iterdir():
        link.unlink()
        link.symlink_to(Path("../../blobs") / link.name)
    read_model(home)
    read_model(home / "snapshots" / "aa")


def test_a_folder_may_itself_be_a_link(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    read_model(tmp_path / "latest")


def test_several_files_without_an_order(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(weights)
    with pytest.raises(ModelFolderError, match=r"\(a\.safetensors, b\.safetensors\) and none is"):
        read_model(folder)
    (folder / "b.safetensors").rename(folder / "adapter_model.safetensors")
    assert [path.name for path in weight_files(folder)] == ["a.safetensors"]


def test_shards_of_two_models(folder: Path) -> None:
    for name in ("model-00001-of-00001.safetensors", "ema-00001-of-00001.safetensors"):
        (folder / name).write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelFolderError, match="shards of several models"):
        read_model(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    for number in (1, 2):
        save_file(tensors, folder / f"model-0000{number}-of-00002.safetensors")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelFolderError, match=r"is there already: keep one of the two"):
        read_model(folder)


def test_a_name_that_a_wrapper_changed_and_the_plain_one(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["_orig_mod.model.norm.weight"] = torch.zeros(24)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelFolderError, match=r"model\.norm\.weight is there already"):
        read_model(folder)


def test_a_message_names_ten_tensors_and_counts_the_rest(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({f"transformer.h.{name}": t for name, t in tensors.items()}, folder / WEIGHTS)
    with pytest.raises(ModelFolderError) as caught:
        read_model(folder)
    assert str(caught.value).count("is unexpected") == 10
    assert f"; and {2 * len(tensors) - 10} more" in str(caught.value)
    assert "a GPT in another layout" in str(caught.value)


def test_nested_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelFolderError, match=r"cannot read .*config\.json"):
        read_config(folder)


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FILES = {
    "2^60 entries": header(x=ENTRY | {"shape": [2**60]}) + bytes(4),
    "2^60 entries by 2^60": header(x=ENTRY | {"shape": [2**60, 2**60]}) + bytes(4),
    "offsets beyond the file": header(x=ENTRY | {"data_offsets": [0, 2**62]}) + bytes(4),
    "offsets backwards": header(x=ENTRY | {"data_offsets": [4, 0]}) + bytes(4),
    "overlapping tensors": header(x=ENTRY, y=ENTRY) + bytes(4),
    "a hole": header(x=ENTRY | {"data_offsets": [4, 8]}) + bytes(8),
    "a name twice": header(x=ENTRY, z=ENTRY | {"data_offsets": [4, 8]}).replace(b'"z"', b'"x"')
    + bytes(8),
    "an unknown dtype": header(x=ENTRY | {"dtype": "Q4"}) + bytes(4),
    "a header of lists": b"\x02" + bytes(7) + b"[]",
    "a nested header": (50_000).to_bytes(8, "little") + b"[" * 50_000,
    "a header of 16 MiB and more": (HEADER_BYTES + 1).to_bytes(8, "little")
    + b" " * (HEADER_BYTES + 1),
    "a negative shape": header(x=ENTRY | {"shape": [-1]}) + bytes(4),
    "seven bytes": bytes(7),
    "a pickle": b"\x80\x02cposix\nsystem\n",
    "a zip": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_no_program_wrote(folder: Path, name: str) -> None:
    (folder / WEIGHTS).write_bytes(FILES[name])
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is not a whole safetensors"):
        read_model(folder)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["config.json", WEIGHTS]),
    place=st.integers(0, 3000),
    cut=st.integers(0, 40),
    inserted=st.binary(max_size=12) | st.sampled_from([b"null", b"-1", b"1e99", b'"', b"[", b"{}"]),
)
def test_nothing_but_one_error_comes_of_a_damaged_file(
    folder: Path, name: str, place: int, cut: int, inserted: bytes
) -> None:
    """A stretch of a valid file is replaced; weights that stay readable are read."""
    whole = (folder / name).read_bytes()
    place %= len(whole)
    try:
        (folder / name).write_bytes(whole[:place] + inserted + whole[place + cut :])
        with suppress(ModelFolderError):
            read_model(folder)
    finally:
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("num_hidden_layers", "layers, and the files hold 21 tensors"),
        ("max_position_embeddings", "set max_position_embeddings to 16777216 or less"),
        ("hidden_size", "width is 1099511627776, but at most 268435456 is possible"),
        ("num_attention_heads", "num_heads times head_width is 8796093022208, but"),
    ],
)
def test_sizes_that_nothing_has_are_refused_before_they_cost(
    folder: Path, key: str, message: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 2**40}))
    with pytest.raises(ModelFolderError) as caught:
        read_model(folder)
    assert message in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux counts it")
def test_a_huge_promise_costs_nothing(folder: Path) -> None:
    """A config of 2^48 entries, against a file of a few kilobytes: refused in little
    memory.
    """
    path = folder / "config.json"
    huge = {"hidden_size": 2**20, "vocab_size": 2**28, "max_position_embeddings": 2**24}
    path.write_text(json.dumps(json.loads(path.read_text()) | huge))
    program = (
        "import resource, sys, puna.model.weights as w\nfrom pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: w.read_model(Path(sys.argv[1]))\n"
        "except w.ModelFolderError as error: print(str(error)[:40])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    message, kilobytes = result.stdout.split("\n")[:2]
    assert message.startswith("the weights in")
    assert int(kilobytes) < 200_000
