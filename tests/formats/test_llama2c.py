"""llama2.c's files against a reader and a writer of the tests' own, made of `struct` alone."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from said import said
from torch import Tensor

from puna.errors import ModelFolderError, PunaError
from puna.formats.llama2c import MAGIC, read_llama2c, write_llama2c
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors

LAYER = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
OURS = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}


def interleaved(rows: list[list[float]], heads: int) -> list[list[float]]:
    """Rows of halves as rows of pairs: (0, h, 1, h + 1, ...) within each head."""
    width = len(rows) // heads
    half = width // 2
    order = [h * width + i + s * half for h in range(heads) for i in range(half) for s in (0, 1)]
    return [rows[n] for n in order]


def floats(tensor: Any) -> bytes:
    values = torch.as_tensor(tensor, dtype=torch.float32).flatten().tolist()
    return struct.pack(f"<{len(values)}f", *values)


def pieces(model: Transformer) -> dict[str, list[Any]]:
    """The weights under llama2.c's names, each a list over layers, in its layout."""
    config = model.config
    tensors = dict(named_tensors(model))
    heads = {"wq": config.num_heads, "wk": config.num_kv_heads}
    found: dict[str, list[Any]] = {}
    for name in LAYER:
        weights = [tensors[f"model.layers.{n}.{OURS[name]}.weight"] for n in range(2)]
        found[name] = [
            interleaved(w.tolist(), heads[name]) if name in heads else w for w in weights
        ]
    for name, ours in (("an", "input_layernorm"), ("fn", "post_attention_layernorm")):
        found[name] = [tensors[f"model.layers.{n}.{ours}.weight"] for n in range(2)]
    found["emb"] = [tensors["model.embed_tokens.weight"]]
    found["norm"] = [tensors["model.norm.weight"]]
    found["out"] = [tensors["lm_head.weight"]] if "lm_head.weight" in tensors else []
    return found


def numbers(model: Transformer) -> list[int]:
    c = model.config
    shape = [c.width, c.feed_forward_width, c.num_layers, c.num_heads, c.num_kv_heads]
    return [*shape, c.vocab_size, c.context_length]


def legacy_file(model: Transformer) -> bytes:
    parts = pieces(model)
    header = numbers(model)
    header[5] *= -1 if parts["out"] else 1
    order = ("emb", "an", "wq", "wk", "wv", "wo", "fn", "w1", "w2", "w3", "norm")
    body = b"".join(floats(t) for name in order for t in parts[name])
    width = model.config.head_width
    angles = [
        [m * 10000.0 ** (-2 * i / width) for i in range(width // 2)]
        for m in range(model.config.context_length)
    ]
    tables = floats(torch.tensor(angles).cos()) + floats(torch.tensor(angles).sin())
    return struct.pack("<7i", *header) + body + tables + b"".join(map(floats, parts["out"]))


def version_file(model: Transformer, group: int = 0) -> bytes:
    """Version 1, or version 2 with groups of this size."""
    parts = pieces(model)
    header = struct.pack("<Ii7iB", MAGIC, 2 if group else 1, *numbers(model), not parts["out"])
    header += struct.pack("<i", group) if group else b""
    body = b"".join(floats(t) for name in ("an", "fn", "norm") for t in parts[name])
    for name in ("emb", *LAYER, "out"):
        for tensor in parts[name]:
            body += quantized(torch.as_tensor(tensor), group) if group else floats(tensor)
    return header.ljust(256, b"\0") + body


def quantized(tensor: Tensor, group: int) -> bytes:
    rows = tensor.detach().flatten().tolist()
    codes, scales = b"", b""
    for start in range(0, len(rows), group):
        block = rows[start : start + group]
        scale = max(map(abs, block)) / 127
        codes += struct.pack(f"<{group}b", *(round(x / scale) for x in block))
        scales += struct.pack("<f", scale)
    return codes + scales


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [legacy_file, version_file])
def test_files_of_each_version_are_read_bit_by_bit(
    tied: bool, make: Callable[[Transformer], bytes], build_llama: Any, tmp_path: Path
) -> None:
    model = build_llama(tie_embeddings=tied)
    path = tmp_path / "model.bin"
    path.write_bytes(make(model))
    found = read_llama2c(path)
    assert found.config == model.config
    tensors = dict(found.tensors())
    assert tensors.keys() == dict(named_tensors(model)).keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in named_tensors(model))


def test_groups_of_eight_bits_are_made_floats(llama: Transformer, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(version_file(llama, 32))
    found = read_llama2c(path).build()
    for (name, ours), (_, theirs) in zip(named_tensors(llama), named_tensors(found), strict=True):
        # half a step of the largest entry anywhere is a bound on half a step of each group
        torch.testing.assert_close(
            theirs, ours, rtol=0, atol=ours.abs().max().item() / 127 / 1.99, msg=name
        )
    ids = torch.arange(40)[None]
    difference = (found(ids) - llama(ids)).std() / llama(ids).std()
    assert difference < 0.1


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_written_is_the_legacy_file(tied: bool, build_llama: Any, tmp_path: Path) -> None:
    model = build_llama(tie_embeddings=tied)
    write_llama2c(tmp_path / "model.bin", model)
    ours, theirs = (tmp_path / "model.bin").read_bytes(), legacy_file(model)
    tables = 2 * 4 * 96 * 4
    end = 0 if tied else model.config.vocab_size * 32 * 4
    start = len(theirs) - end - tables
    assert len(ours) == len(theirs)
    assert ours[:start] == theirs[:start]
    assert ours[start + tables :] == theirs[start + tables :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_eps": 1e-6}, "norm_eps = 1e-06 (always 1e-05)"),
        ({"rope_base": 5e5}, "rope_base = 500000.0 (always 10000.0)"),
        ({"head_width": 16}, "head_width = 16"),
        ({"feed_forward": "reglu"}, "feed_forward = reglu"),
        ({"position": "alibi"}, "position = alibi"),
        ({"rope_scaling": {"kind": "linear", "factor": 2}}, "rope_scaling"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_by_name(
    changes: dict[str, Any], message: str, build_llama: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=said(message)):
        write_llama2c(tmp_path / "model.bin", build_llama(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [legacy_file, version_file])
def test_a_file_cut_anywhere_is_refused(
    make: Callable[[Transformer], bytes], llama: Transformer, tmp_path: Path
) -> None:
    data = make(llama)
    path = tmp_path / "model.bin"
    for size in (0, 1, 27, 28, 255, 256, 300, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelFolderError, match=said(f"no whole llama2.c file ... {size:,}")):
            read_llama2c(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelFolderError, match="no whole llama2"):
        read_llama2c(path)


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=7, max_size=7),
    st.sampled_from([-1, 1, 2, 3]),
    st.integers(0, 40),
)
def test_no_header_is_anything_but_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: list[int], version: int, more: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    start = b"" if version == -1 else struct.pack("<Ii", MAGIC, version)
    path.write_bytes((start + struct.pack("<7i", *header)).ljust(256, b"\0") + bytes(more))
    with pytest.raises(PunaError):
        read_llama2c(path).build()


def test_a_context_out_of_proportion_is_refused(llama: Transformer, tmp_path: Path) -> None:
    """Version 1 only states it, and tables of that length would be made: 2^31 positions."""
    data = bytearray(version_file(llama))
    data[32:36] = struct.pack("<i", 2**31 - 1)
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(ModelFolderError, match="no whole llama2"):
        read_llama2c(tmp_path / "model.bin")
