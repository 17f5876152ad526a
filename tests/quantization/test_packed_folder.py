"""The folder: its words are those of the layout, its weights come back, and codes and scales are
read as they were written.
"""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from said import said
from small_llama import build_llama, save_llama_folder, vocabulary

from puna.errors import ModelFolderError
from puna.formats.gguf_model import write_gguf
from puna.formats.model_path import open_model
from puna.model.weights import named_tensors, read_model
from puna.quantization.calibration import linear_names, quantize_model
from puna.quantization.grid import Grid
from puna.quantization.packed_folder import pack, quantization_config
from puna.quantization.stored import quantized_matrices, unpack
from puna.workflow.quantizing import QuantizePlan, quantize

NAME = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(("bits", "low", "high"), [(4, -8, 7), (8, -128, 127)])
@pytest.mark.parametrize("inputs", [64, 37])
def test_words_hold_the_codes_in_order(bits: int, low: int, high: int, inputs: int) -> None:
    """code + 2^(b-1) of input i in the bits from b (i mod 32/b) on of word i // (32/b)."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(low, high + 1, (5, inputs), generator=generator).to(torch.int8)
    words = pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (5, -(-inputs * bits // 32))
    for row, i in ((0, 0), (2, 9), (4, inputs - 1)):
        word, place = int(words[row, i // (32 // bits)]) & 0xFFFFFFFF, i % (32 // bits)
        assert (word >> bits * place & ((1 << bits) - 1)) - (1 << (bits - 1)) == codes[row, i]
    assert np.array_equal(unpack(words.numpy(), bits, inputs), codes.numpy())


def test_the_configuration_names_grids_and_modules() -> None:
    grids = {
        "embed_tokens": Grid(8, 0),
        "layers.0.mlp.up_proj": Grid(4, 64),
        "layers.1.mlp.up_proj": Grid(4, 64),
        "lm_head": Grid(8, 0),
    }
    found = quantization_config(grids, ["layers.0.mlp.down_proj"])
    assert found["ignore"] == ["model.layers.0.mlp.down_proj"]
    assert found["quant_method"] == "compressed-tensors"
    groups = {
        tuple(group["targets"]): (
            group["weights"]["num_bits"],
            group["weights"]["strategy"],
            group["weights"]["group_size"],
        )
        for group in found["config_groups"].values()
    }
    assert groups == {
        ("re:.*embed_tokens$", "re:.*lm_head$"): (8, "channel", None),
        ("Linear",): (4, "group", 64),
    }


def test_matrices_with_other_bits_than_most_are_named() -> None:
    grids = {
        "embed_tokens": Grid(8, 0),
        "layers.0.mlp.up_proj": Grid(4, 64),
        "layers.0.mlp.gate_proj": Grid(4, 64),
        "layers.0.mlp.down_proj": Grid(8, 0),
    }
    groups = quantization_config(grids, [])["config_groups"].values()
    targets = {group["weights"]["num_bits"]: group["targets"] for group in groups}
    assert targets[4] == ["Linear"]
    assert targets[8] == ["re:.*embed_tokens$", r"re:.*layers\.0\.mlp\.down_proj$"]
    (pattern,) = (target.removeprefix("re:") for target in targets[8] if "down" in target)
    assert re.match(pattern, "model.layers.0.mlp.down_proj")
    assert not re.match(pattern, "model.layers.10.mlp.down_proj")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama_folder(tmp_path / "model", build_llama(tie_embeddings=True))


def quantized(folder: Path, out: Path, **options: Any) -> Path:
    quantize(folder, out, QuantizePlan(group=32, measure=("python-stdlib",), **options))
    return out


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_codes_times_scales_are_the_weights_that_the_model_has(
    to: Any, folder: Path, tmp_path: Path
) -> None:
    out = quantized(folder, tmp_path / "out", to=to, measured_tokens=64)
    stored = quantized_matrices(out)
    weights = dict(named_tensors(read_model(out)))
    assert len(stored) == 2 * 7 + 1
    for name, matrix in stored.items():
        assert np.array_equal(matrix.dequantize(), weights[name].detach().numpy()), name
    matrix = stored[f"{NAME}.weight"]
    assert (matrix.bits, matrix.group) == ((8, 0) if to == "int8" else (4, 32))
    assert matrix.scales.dtype == (np.float32 if to == "int8" else np.float16)
    assert matrix.scales.shape == ((32, 1) if to == "int8" else (32, 2))
    assert stored["model.embed_tokens.weight"].bits == 8


def test_some_matrices_have_eight_bits_among_four(folder: Path, tmp_path: Path) -> None:
    options = {"int8": ("down_proj", "layers.1"), "keep": ("layers.1.mlp.up_proj",)}
    out = quantized(folder, tmp_path / "out", to="int4", measured_tokens=64, **options)
    bits = {name: matrix.bits for name, matrix in quantized_matrices(out).items()}
    assert "model.layers.1.mlp.up_proj.weight" not in bits
    eight = {name for name, each in bits.items() if each == 8}
    assert {name for name in bits if "down_proj" in name or ".layers.1." in name} <= eight
    assert bits["model.layers.0.mlp.up_proj.weight"] == 4


def test_a_plain_folder_has_no_quantized_matrices(folder: Path) -> None:
    assert not quantized_matrices(folder)


@pytest.mark.parametrize(
    ("number_type", "kind", "bits"), [("q8_0", "Q8_0", 8), ("q4_0", "Q4_0", 4)]
)
def test_gguf_blocks_are_codes_and_scales(
    number_type: Any, kind: str, bits: int, tmp_path: Path
) -> None:
    """Beside the gguf package, and beside the whole model for the order of rows."""
    path = tmp_path / "x.gguf"
    write_gguf(path, build_llama(), vocabulary(), number_type)
    stored, weights = quantized_matrices(path), dict(named_tensors(open_model(path)[0]))
    assert {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"} <= stored.keys()
    for name, matrix in stored.items():
        assert (matrix.bits, matrix.group) in {(bits, 32), (8, 32)}
        assert np.array_equal(matrix.dequantize(), weights[name].detach().numpy()), name
    theirs = next(
        tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.1.ffn_down.weight"
    )
    assert theirs.tensor_type.name == kind
    ours = stored[f"{NAME}.weight"].dequantize()
    assert np.array_equal(ours, dequantize(theirs.data, theirs.tensor_type))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("weight_packed", lambda t: t[:-1]),
        ("weight_packed", lambda t: t.to(torch.int64)),
        ("weight_scale", lambda t: t[:, 0]),
        ("weight_scale", lambda t: torch.cat([t, t, t], dim=1)),
        ("weight_shape", lambda t: t * 3),
        ("weight_shape", lambda t: t[:1]),
        ("weight_shape", lambda t: t.float()),
        ("weight_shape", lambda t: -t),
    ],
)
def test_parts_that_contradict_each_other(
    part: str, change: Any, folder: Path, tmp_path: Path
) -> None:
    out = quantized(folder, tmp_path / "out", measured_tokens=64)
    tensors = load_file(out / "model.safetensors")
    tensors[f"{NAME}.{part}"] = change(tensors[f"{NAME}.{part}"]).contiguous()
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(ModelFolderError, match=said(f"{NAME} ... quantized ... copy")):
        quantized_matrices(out)[f"{NAME}.weight"]
    with pytest.raises(ModelFolderError):
        read_model(out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scales_that_float16_would_round_are_left_out(
    dtype: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    """Their matrices are read as whole weights, as are those with zero points."""
    out = quantized(folder, tmp_path / "out", measured_tokens=64)
    tensors = load_file(out / "model.safetensors")
    tensors[f"{NAME}.weight_scale"] = tensors[f"{NAME}.weight_scale"].to(dtype)
    save_file(tensors, out / "model.safetensors")
    assert f"{NAME}.weight" not in quantized_matrices(out)
    assert len(quantized_matrices(out)) == 2 * 7
    read_model(out)


def test_a_cut_file(folder: Path, tmp_path: Path) -> None:
    out = quantized(folder, tmp_path / "out", measured_tokens=64)
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFolderError, match=said("model.safetensors ... whole")):
        quantized_matrices(out)


def test_mixed_bits_are_told_apart_by_their_words(folder: Path, tmp_path: Path) -> None:
    """One folder with an embedding in 8 bits and layers in 4."""
    out = quantized(folder, tmp_path / "out", measured_tokens=64)
    values = json.loads((out / "config.json").read_text())
    bits = {
        group["weights"]["num_bits"]
        for group in values["quantization_config"]["config_groups"].values()
    }
    assert bits == {4, 8}
    weights = dict(named_tensors(read_model(out)))
    assert {matrix.bits for matrix in quantized_matrices(out).values()} == {4, 8}
    assert weights["model.embed_tokens.weight"].unique().numel() > 16


def test_layers_see_what_quantized_layers_make() -> None:
    """The second layer's H is of the states after the quantized first one."""
    model, windows = build_llama(), torch.arange(60).view(2, 30)
    grids = dict.fromkeys(linear_names(model), Grid(4, 32))
    made = quantize_model(model, grids, windows)
    name = "layers.1.self_attn.q_proj"
    inputs: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda _module, given: inputs.append(given[0])
    )
    with torch.no_grad():
        model(windows)
    hook.remove()
    original = build_llama().get_submodule(name).weight.detach()
    x, d = inputs[0].flatten(0, 1), original - made.weights[name].dequantize()
    wanted = (x @ d.T).square().sum() / (x @ original.T).square().sum()
    found = next(error for error in made.errors if error.name == name)
    assert found.output == pytest.approx(float(wanted), rel=1e-3)
    assert found.weight == pytest.approx(
        float(d.square().sum() / original.square().sum()), rel=1e-4
    )
