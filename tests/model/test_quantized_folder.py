"""Quantized folders, each written here by a quantizer made from the published layout: the weights
that come back are those that the codes stand for, and a folder that contradicts itself is refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.errors import ModelFolderError
from puna.model.folder_files import WEIGHTS
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors, read_model, write_model

# the tensors of one module, and the weight that they stand for, in float32
Quantized = tuple[dict[str, Tensor], Tensor]
Quantizer = Callable[[Tensor], Quantized]
SHAPE = {"width": 32, "feed_forward_width": 64, "num_heads": 4, "num_kv_heads": 2, "head_width": 8}


def fp8(weight: Tensor, scale: Tensor, name: str) -> Quantized:
    """scale: broadcasts over the weight; the codes are float8."""
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, name: scale}, codes.float() * scale


def fp8_tensor(weight: Tensor) -> Quantized:
    parts, values = fp8(weight, weight.abs().max() / 448, "weight_scale")
    return parts | {"input_scale": torch.tensor(0.1)}, values


def fp8_channel(weight: Tensor) -> Quantized:
    return fp8(weight, weight.abs().amax(1, keepdim=True) / 448, "weight_scale")


def fp8_block(weight: Tensor, high: int = 24, wide: int = 16) -> Quantized:
    """DeepSeek's blocks; 24 divides no height here, so that the last block is cut."""
    rows, columns = weight.shape
    down, across = -(-rows // high), -(-columns // wide)
    codes, values = torch.empty_like(weight).to(torch.float8_e4m3fn), torch.empty_like(weight)
    scales = torch.empty(down, across)
    for i in range(down):
        for j in range(across):
            place = slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide)
            scales[i, j] = weight[place].abs().max() / 448
            codes[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
            values[place] = codes[place].float() * scales[i, j]
    return {"weight": codes, "weight_scale_inv": scales}, values


def int8_channel(weight: Tensor) -> Quantized:
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().to(torch.int8)
    return {"weight": codes, "weight_scale": scale}, codes * scale


def int8_asymmetric(weight: Tensor) -> Quantized:
    low, high = weight.aminmax(dim=1, keepdim=True)
    scale = (high - low) / 255
    zero = (-128 - low / scale).round()
    codes = (weight / scale + zero).round().clamp(-128, 127)
    parts = {"weight": codes.to(torch.int8), "weight_scale": scale}
    return parts | {"weight_zero_point": zero.to(torch.int8)}, (codes - zero) * scale


def llm_int8(weight: Tensor) -> Quantized:
    largest = weight.abs().amax(1)
    codes = (weight * (127 / largest[:, None])).round().to(torch.int8)
    parts = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes * (largest[:, None] / 127)


NF4 = torch.tensor([-1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0.0,
                    0.0796, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1.0])  # fmt: skip


def four_bits(weight: Tensor, *, nested: bool, size: int = 64) -> Quantized:
    flat = weight.flatten()
    groups = flat.view(-1, size)
    largest = groups.abs().amax(1)
    extra, state = {}, {"quant_type": "nf4", "blocksize": size, "dtype": "float32"}
    stored = largest
    if nested:
        levels, offset = torch.linspace(-1, 1, 256), float(largest.mean())
        outer = (largest - offset).view(-1, 16).abs().amax(1)  # 16 scales share one
        scaled = (largest - offset) / outer.repeat_interleave(16)
        stored = (scaled[:, None] - levels).abs().argmin(1).to(torch.uint8)
        largest = levels[stored.long()] * outer.repeat_interleave(16) + offset
        extra = {"weight.nested_absmax": outer, "weight.nested_quant_map": levels}
        state |= {"nested_blocksize": 16, "nested_offset": offset, "nested_dtype": "float32"}
    codes = (groups[..., None] / largest[:, None, None] - NF4).abs().argmin(-1)
    pairs = codes.flatten().view(-1, 2)
    text = json.dumps(state | {"shape": list(weight.shape)}).encode()
    parts = {
        "weight": (pairs[:, :1] * 16 + pairs[:, 1:]).to(torch.uint8),
        "weight.absmax": stored,
        "weight.quant_map": NF4.clone(),
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(text), dtype=torch.uint8),
    }
    return parts | extra, (NF4[codes] * largest[:, None]).view_as(weight)


def nf4(weight: Tensor) -> Quantized:
    return four_bits(weight, nested=False)


def nf4_nested(weight: Tensor) -> Quantized:
    return four_bits(weight, nested=True, size=32)


def packed(numbers: Tensor, bits: int) -> Tensor:
    """Whole numbers along the last axis into words, lowest bits first; number by number."""
    per_word = 32 // bits
    words = torch.zeros(*numbers.shape[:-1], numbers.shape[-1] // per_word, dtype=torch.int64)
    for place in range(per_word):
        words |= numbers[..., place::per_word].long() << (bits * place)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def grouped(weight: Tensor, bits: int, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [O, I], zero points and scales [O, groups] of groups of inputs."""
    count = int(group.max()) + 1
    low, high = (
        torch.stack([edge(weight[:, group == g], 1) for g in range(count)], 1)
        for edge in (torch.amin, torch.amax)
    )
    scale = ((high - low) / (2**bits - 1)).half().float()
    zero = (-low / scale).round().clamp(1, 2**bits - 1)
    codes = (weight / scale[:, group] + zero[:, group]).round().clamp(0, 2**bits - 1)
    return codes, zero, scale


def gptq(weight: Tensor, bits: int = 4, *, act_order: bool = False, offset: int = 1) -> Quantized:
    inputs = weight.shape[1]
    group = torch.arange(inputs) // 8
    if act_order:
        group = group[torch.randperm(inputs)]
    codes, zero, scale = grouped(weight, bits, group)
    parts = {
        "qweight": packed(codes, bits).T.contiguous(),
        "qzeros": packed(zero.T - offset, bits),
        "scales": scale.T.half().contiguous(),
        "g_idx": group.to(torch.int32),
        "bias": torch.zeros(weight.shape[0]),
    }
    return parts, (codes - zero[:, group]) * scale[:, group]


def gptq_act_order(weight: Tensor) -> Quantized:
    return gptq(weight, act_order=True)


def gptq_8(weight: Tensor) -> Quantized:
    parts, values = gptq(weight, 8)
    return {name: part for name, part in parts.items() if name != "g_idx"}, values


def gptq_v2(weight: Tensor) -> Quantized:
    return gptq(weight, offset=0)


def awq(weight: Tensor) -> Quantized:
    group = torch.arange(weight.shape[1]) // 8
    codes, zero, scale = grouped(weight, 4, group)

    def words(numbers: Tensor) -> Tensor:
        """Eight outputs a word, in AutoAWQ's order 0 2 4 6 1 3 5 7."""
        eights = numbers.unflatten(-1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return packed(eights.flatten(-2), 4)

    parts = {"qweight": words(codes.T), "qzeros": words(zero.T), "scales": scale.T.half()}
    values = (codes - zero[:, group]) * scale[:, group]
    return {name: part.contiguous() for name, part in parts.items()}, values


def mlx(weight: Tensor, bits: int = 4) -> Quantized:
    group = torch.arange(weight.shape[1]) // 16
    codes, zero, scale = grouped(weight, bits, group)
    biases = -zero * scale
    words = packed(codes, bits).view(torch.uint32)
    parts = {"weight": words, "scales": scale.contiguous(), "biases": biases.contiguous()}
    return parts, codes * scale[:, group] + biases[:, group]


def compressed(weight: Tensor) -> Quantized:
    groups = weight.unflatten(1, (-1, 8))
    scale = groups.abs().amax(2) / 7
    codes = (groups / scale[..., None]).round()
    parts = {
        "weight_packed": packed(codes.flatten(1) + 8, 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
    }
    return parts, (codes * scale[..., None]).flatten(1)


def compressed_asymmetric(weight: Tensor) -> Quantized:
    group = torch.arange(weight.shape[1]) // 8
    codes, zero, scale = grouped(weight, 4, group)
    parts = {
        "weight_packed": packed(codes, 4),
        "weight_scale": scale,
        "weight_zero_point": packed(zero.T, 4).T.contiguous(),
        "weight_shape": torch.tensor(weight.shape),
    }
    return parts, (codes - zero[:, group]) * scale[:, group]


GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 8}}
BLOCK = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [24, 16]}}
GROUPS = {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 8}}}
FORMS: dict[str, tuple[Quantizer, dict[str, Any]]] = {
    "FP8, a scale for the tensor": (fp8_tensor, {"quantization_config": {"quant_method": "fp8"}}),
    "FP8, a scale for each row": (fp8_channel, {}),
    "FP8 in blocks": (fp8_block, BLOCK),
    "int8 by row": (int8_channel, {}),
    "int8 with zero points": (int8_asymmetric, {}),
    "bitsandbytes int8": (llm_int8, {}),
    "bitsandbytes NF4": (nf4, {}),
    "bitsandbytes NF4, nested": (nf4_nested, {}),
    "GPTQ": (gptq, GPTQ),
    "GPTQ, inputs in another order": (gptq_act_order, GPTQ),
    "GPTQ, 8 bits, no g_idx": (
        gptq_8,
        {"quantization_config": {"quant_method": "gptq", "bits": 8}},
    ),
    "GPTQ, version 2": (
        gptq_v2,
        {"quantization_config": GPTQ["quantization_config"] | {"checkpoint_format": "gptq_v2"}},
    ),
    "AWQ": (awq, {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}),
    "MLX": (mlx, {"quantization": {"group_size": 16, "bits": 4}}),
    "compressed-tensors, packed": (compressed, {"quantization_config": {"config_groups": GROUPS}}),
    "compressed-tensors, packed, with zero points": (
        compressed_asymmetric,
        {"quantization_config": {"config_groups": GROUPS}},
    ),
}


def quantize(folder: Path, quantizer: Quantizer, keys: dict[str, Any]) -> dict[str, Tensor]:
    """Quantize the matrices of all layers in a folder; gives the weights that the codes stand
    for.
    """
    torch.manual_seed(3)
    stored, expected = {}, load_file(folder / WEIGHTS)
    for name, tensor in expected.items():
        if ".layers." in name and name.endswith("proj.weight"):
            parts, values = quantizer(tensor)
            expected[name] = values
            stored |= {f"{name.removesuffix('weight')}{part}": t for part, t in parts.items()}
        else:
            stored[name] = tensor
    save_file(stored, folder / WEIGHTS)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return expected


@pytest.fixture
def folder(small_model: Callable[..., Transformer], tmp_path: Path) -> Path:
    write_model(tmp_path, small_model(**SHAPE))
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_those_that_the_codes_stand_for(folder: Path, form: str) -> None:
    """And they are near those that were quantized: four bits keep a weight to a fifth of the
    largest.
    """
    plain = dict(named_tensors(read_model(folder)))
    expected = quantize(folder, *FORMS[form])
    for name, tensor in named_tensors(read_model(folder)):
        torch.testing.assert_close(tensor.data, expected[name], rtol=2e-6, atol=1e-7)
        assert (tensor - plain[name]).abs().max() <= 0.2 * plain[name].abs().max(), name


@pytest.mark.parametrize("form", ["bitsandbytes NF4", "GPTQ"])
@pytest.mark.parametrize(
    ("said", "dtype"),
    [("torch.bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)],
)
def test_the_dtype_is_that_of_the_config(
    folder: Path, form: str, said: str, dtype: torch.dtype
) -> None:
    quantizer, keys = FORMS[form]
    quantize(folder, quantizer, keys | {"torch_dtype": said})
    stored = load_file(folder / WEIGHTS)
    plain = {
        name: tensor.to(dtype) if name.endswith(("norm.weight", "embed_tokens.weight")) else tensor
        for name, tensor in stored.items()
    }
    plain["lm_head.weight"] = plain["lm_head.weight"].to(dtype)
    save_file(plain, folder / WEIGHTS)
    assert {p.dtype for p in read_model(folder).parameters()} == {dtype}


@pytest.mark.parametrize("form", FORMS)
def test_a_part_of_another_shape_is_refused(folder: Path, form: str) -> None:
    """Whichever part of a module is cut, the message names the module or the tensor."""
    quantize(folder, *FORMS[form])
    stored = load_file(folder / WEIGHTS)
    module = "model.layers.0.mlp.up_proj."
    harmless = ("input_scale", "weight_format", "bias")
    for name in [name for name in stored if name.startswith(module)]:
        if stored[name].dim() == 0 or name.endswith(harmless):
            continue
        cut = stored | {name: stored[name][:-1].contiguous()}
        save_file(cut, folder / WEIGHTS)
        with pytest.raises(ModelFolderError, match=r"model\.layers\.0\.mlp\.up_proj"):
            read_model(folder)


@pytest.mark.parametrize(
    ("form", "keys", "message"),
    [
        ("GPTQ", {}, "quant_method = None"),
        ("GPTQ", {"quant_method": "gptq", "bits": 3}, "bits = 3 (only 2, 4, 8 is supported)"),
        ("GPTQ", {"quant_method": "gptq", "bits": True}, "bits = True (only"),
        (
            "GPTQ",
            {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
            "checkpoint_format = 'marlin' (only 'gptq', 'gptq_v2' is supported)",
        ),
        ("AWQ", {"quant_method": "awq", "bits": 4, "version": "gemv"}, "version = 'gemv' (only"),
        ("MLX", {"bits": 4, "group_size": 64}, "group_size = 64, and its scales say 16"),
        ("compressed-tensors, packed", {}, "config_groups name the bits []"),
        ("FP8 in blocks", {"weight_block_size": [16, 16]}, "fits no blocks of [16, 16]"),
    ],
)
def test_settings_that_are_not_known_are_refused(
    folder: Path, form: str, keys: dict[str, Any], message: str
) -> None:
    quantize(folder, FORMS[form][0], {"quantization_config": keys})
    with pytest.raises(ModelFolderError) as caught:
        read_model(folder)
    assert message in str(caught.value)
    assert "use the model that it was made from" in str(caught.value)


@pytest.mark.parametrize(
    "state",
    [
        b"{",
        b"[]",
        b'{"shape": [64, 32]}',
        b'{"shape": [1099511627776, 1099511627776], "blocksize": 64}',
        b'{"shape": [64, 32], "blocksize": 0}',
        b'{"shape": [64, true], "blocksize": 64}',
        b"[" * 60_000,
    ],
    ids=lambda state: str(state[:40]),
)
def test_a_state_that_is_none_is_refused(folder: Path, state: bytes) -> None:
    quantize(folder, *FORMS["bitsandbytes NF4"])
    stored = load_file(folder / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"
    stored[name] = torch.tensor(list(state), dtype=torch.uint8)
    save_file(stored, folder / WEIGHTS)
    with pytest.raises(ModelFolderError, match=r"layers\.0\.mlp\.up_proj is stored quantized"):
        read_model(folder)


def test_groups_that_do_not_exist_are_refused(folder: Path) -> None:
    quantize(folder, *FORMS["GPTQ"])
    stored = load_file(folder / WEIGHTS)
    stored["model.layers.0.mlp.up_proj.g_idx"][3] = 99
    save_file(stored, folder / WEIGHTS)
    with pytest.raises(ModelFolderError, match=r"g_idx names groups beyond 0 to 3"):
        read_model(folder)


def test_a_form_that_is_not_known_is_named(folder: Path) -> None:
    """Half-quadratic quantization: other names."""
    quantize(
        folder,
        lambda weight: ({"W_q": weight.to(torch.uint8), "meta": torch.zeros(1)}, weight),
        {"quantization_config": {"quant_method": "hqq"}},
    )
    with pytest.raises(ModelFolderError) as caught:
        read_model(folder)
    assert "W_q is unexpected" in str(caught.value)
    assert "; and " in str(caught.value), "ten tensors, then a number"
    assert "a quantization (hqq)" in str(caught.value)


def test_scales_of_a_cache_are_passed_over(folder: Path) -> None:
    quantize(folder, *FORMS["FP8, a scale for each row"])
    stored = load_file(folder / WEIGHTS)
    stored["model.layers.0.self_attn.k_proj.k_scale"] = torch.tensor(0.5)
    stored["model.layers.0.self_attn.v_scale"] = torch.tensor(0.5)
    save_file(stored, folder / WEIGHTS)
    read_model(folder)
