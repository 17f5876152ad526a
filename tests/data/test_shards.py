"""Shards read as one sequence; damage is rejected by the name of its file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_texts import make_texts
from said import said

from puna.data import shards
from puna.data.manifest import Manifest
from puna.data.prepare import prepare
from puna.data.shards import open_split, verify_shards
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def whole(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of many small shards that tests only read."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in make_texts(60))
    )
    prepare(
        [str(folder / "a.jsonl")],
        tokenizer,
        folder / "out",
        validation_fraction=0.2,
        shard_tokens=2_000,
    )
    return folder / "out"


@pytest.fixture
def damaged(tokenizer: Tokenizer, corpus: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder of shards for a test to damage."""
    prepare([str(corpus(make_texts(30)))], tokenizer, tmp_path / "out", shard_tokens=2_000)
    return tmp_path / "out"


@given(st.data())
def test_any_range_is_the_slice_of_the_joined_shards(whole: Path, data: st.DataObject) -> None:
    stream = open_split(whole, "train")
    joined = np.concatenate(
        [np.fromfile(path, "<u2") for path in sorted(whole.glob("train-*.tokens"))]
    )
    assert stream.num_tokens == len(joined)
    start = data.draw(st.integers(0, len(joined)))
    count = data.draw(st.integers(0, len(joined) - start))
    ids = stream.read(start, count)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, joined[start : start + count])


def test_documents_are_the_whole_stream(whole: Path, tokenizer: Tokenizer) -> None:
    stream = open_split(whole, "validation")
    documents = list(stream.documents())
    assert len(documents) == stream.num_documents
    assert all(ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id for ids in documents)
    np.testing.assert_array_equal(np.concatenate(documents), stream.read(0, stream.num_tokens))


def test_bytes_are_those_of_the_text(whole: Path, tokenizer: Tokenizer) -> None:
    stream = open_split(whole, "train")
    assert stream.num_bytes == tokenizer.token_lengths()[stream.read(0, stream.num_tokens)].sum()


def test_few_files_are_mapped_at_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MAPPED_SHARDS", 2)
    stream = open_split(whole, "train")
    expected = stream.read(0, stream.num_tokens)
    for start in np.random.default_rng(0).integers(0, stream.num_tokens - 10, size=50).tolist():
        np.testing.assert_array_equal(stream.read(start, 10), expected[start : start + 10])


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1), (0, 10**9), (10**9, 1)])
def test_a_range_outside_the_stream_is_an_index_error(start: int, count: int, whole: Path) -> None:
    with pytest.raises(IndexError, match="stream"):
        open_split(whole, "train").read(start, count)


@pytest.mark.parametrize("name", ["train-00001.tokens", "train-00001.offsets"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard_is_rejected_by_name(name: str, verify: bool, damaged: Path) -> None:
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=said(f"{name} ... bytes ... copy it again")):
        open_split(damaged, "train", verify=verify)


@pytest.mark.parametrize("name", ["train-00001.tokens", "train-00001.offsets"])
def test_a_missing_shard_is_rejected_by_name(name: str, damaged: Path) -> None:
    (damaged / name).unlink()
    with pytest.raises(DataError, match=said(f"{name} ... missing")):
        open_split(damaged, "train", verify=False)


@pytest.mark.parametrize("name", ["train-00001.tokens", "train-00001.offsets"])
def test_an_altered_shard_is_rejected_by_name_when_verified(name: str, damaged: Path) -> None:
    path = damaged / name
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=said(f"{name} ... altered")):
        open_split(damaged, "train")
    open_split(damaged, "train", verify=False)
    verified = verify_shards(damaged, Manifest.load(damaged), ("train",))
    assert next(verified).name == "train-00000"
    with pytest.raises(DataError, match=said(f"{name} ... altered")):
        next(verified)


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format=2), "format 1 ... format"),
        (lambda values: values.pop("splits"), "splits ... required"),
        (lambda values: values.update(colour="red"), "colour"),
        (
            lambda values: values["splits"]["train"].update(tokens=7),
            "tokens ... 7 ... shards",
        ),
    ],
)
def test_a_damaged_manifest_is_rejected(
    change: Callable[[dict], object], message: str, damaged: Path
) -> None:
    edit(damaged, change)
    with pytest.raises(DataError, match=said(message)):
        open_split(damaged, "train")


def test_a_folder_without_a_manifest_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said("manifest.json ... `puna data prepare`")):
        open_split(tmp_path, "train")
