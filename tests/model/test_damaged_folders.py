"""Folders that do not hold what they promise: one ModelFolderError each, that says all that is
wrong.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.errors import ModelFolderError
from puna.model.folder_files import INDEX, WEIGHTS
from puna.model.weights import read_config, read_model, write_model


@pytest.fixture
def folder(small_model: Any, tmp_path: Path) -> Path:
    write_model(tmp_path, small_model())
    return tmp_path


@pytest.fixture
def sharded(small_model: Any, tmp_path: Path) -> Path:
    write_model(tmp_path, small_model(), shard_bytes=6000)
    return tmp_path


def test_one_error_lists_everything_that_does_not_fit(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(32, 23)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
    tensors["lm_head.weight"] = torch.zeros(51, 24)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelFolderError) as caught:
        read_model(folder)
    for part in (
        "model.norm.weight is missing",
        "model.layers.1.mlp.up_proj.weight is missing",
        "model.layers.0.self_attn.q_proj.weight has shape [32, 23] instead of [32, 24]",
        "model.layers.0.self_attn.q_proj.bias is unexpected",
        "lm_head.weight has shape [51, 24] instead of [50, 24]",
    ):
        assert part in str(caught.value)
    assert str(caught.value).count(";") == 4, "nothing that fits is complained about"


def test_old_rotary_buffers_are_passed_over(folder: Path) -> None:
    """Folders written by early versions of transformers carry their frequencies as weights."""
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    save_file(tensors, folder / WEIGHTS)
    read_model(folder)


def test_a_tied_model_may_store_its_output_layer_again(small_model: Any, tmp_path: Path) -> None:
    model = small_model(tie_embeddings=True)
    write_model(tmp_path, model)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        tmp_path / WEIGHTS,
    )
    assert torch.equal(read_model(tmp_path).output_weight, model.output_weight)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: data[:0],
        lambda data: b"\xff" * 64 + data,
    ],
    ids=["half", "four bytes", "empty", "shifted"],
)
def test_weights_that_were_cut_off_or_overwritten(
    folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = folder / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ModelFolderError, match=r"model\.safetensors is not a whole safetensors file"
    ):
        read_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_rejected_with_the_reason(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    with pytest.raises(
        ModelFolderError,
        match=rf"pickles \({name}\), which can run code when opened; convert them to safetensors",
    ):
        read_model(folder)


def test_a_pickle_beside_safetensors_is_left_unopened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    read_model(folder)


@pytest.mark.parametrize(
    "outside", ["../model.safetensors", "/etc/hostname", "sub/model.safetensors", ".."]
)
def test_an_index_that_leads_out_of_the_folder(sharded: Path, outside: str) -> None:
    """The files exist, so nothing but the rule keeps them from being opened."""
    (sharded / "sub").mkdir()
    for place in (sharded.parent, sharded / "sub"):
        save_file({"x": torch.zeros(1)}, place / "model.safetensors")
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = outside
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match="names files that are not in the folder") as caught:
        read_model(sharded)
    assert str(caught.value).endswith(f": {outside}")


def test_a_shard_that_is_not_there(sharded: Path) -> None:
    first = sorted(sharded.glob("model-*"))[0]
    first.unlink()
    with pytest.raises(ModelFolderError, match=f"not in the folder: {first.name}$"):
        read_model(sharded)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}'],
)
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors\.index\.json"):
        read_model(sharded)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"is no model folder: it has no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"null"])
def test_a_config_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        read_config(tmp_path)
