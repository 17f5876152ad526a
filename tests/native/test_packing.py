"""Panels of weights beside the layout's definition, and what the scalar tier reads of them."""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from puna.native.library import Library, available_tiers, load
from puna.native.model_runner import _Linear, _linear
from puna.native.packing import (
    BITS,
    STEP,
    PackedLinear,
    pack_codes,
    pack_floats,
    take_turns,
    to_bfloat16,
)

SHAPES = [(1, 1), (5, 3), (8, 16), (17, 33), (40, 130)]
LANES = [1, 4, 8, 16]


def matrix(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def codes_of(
    rows: int, columns: int, bits: int, group: int
) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """Random codes, the ends of their range among them, and scales."""
    random = np.random.default_rng(rows + columns)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    codes = random.integers(low, high + 1, (rows, columns), np.int8)
    codes[0, 0], codes[-1, -1] = low, high
    groups = -(-columns // group) if group else 1
    scales = random.uniform(0.001, 0.1, (rows, groups))
    return codes, scales.astype(np.float16 if group else np.float32)


def dequantized(codes: NDArray[np.int8], scales: NDArray[Any], group: int) -> NDArray[np.float32]:
    size = group or codes.shape[1]
    spread = scales.astype(np.float32).repeat(size, 1)[:, : codes.shape[1]]
    return codes.astype(np.float32) * spread


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lanes", LANES)
def test_an_entry_is_where_the_layout_has_it(shape: tuple[int, int], lanes: int) -> None:
    """Row r and column c at panel r // lanes, step c // STEP, lane r % lanes, place c % STEP."""
    entries = matrix(*shape)
    for kind, words in (("float32", entries), ("bfloat16", to_bfloat16(entries))):
        packed = pack_floats(entries, kind, lanes)
        step = STEP[kind]
        columns = -(-shape[1] // step) * step
        flat = packed.weights.view(words.dtype)
        assert packed.weights.nbytes == packed.weight_bytes
        at = {
            (r // lanes * columns + c // step * step) * lanes + r % lanes * step + c % step: (r, c)
            for r in range(shape[0])
            for c in range(shape[1])
        }
        for place, word in enumerate(flat):
            assert word == (words[at[place]] if place in at else 0)
        assert packed.scales is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 32), (4, 32), (4, 64)])
def test_a_code_is_where_the_layout_has_it(shape: tuple[int, int], bits: int, group: int) -> None:
    lanes = 8
    codes, scales = codes_of(*shape, bits, group)
    packed = pack_codes(codes, scales, bits=bits, group=group, lanes=lanes)
    step = STEP[packed.kind]
    columns = -(-shape[1] // step) * step
    assert (packed.kind, packed.weights.nbytes) == (f"int{bits}", packed.weight_bytes)
    assert packed.scales is not None
    assert (packed.scales.shape, packed.scales.dtype) == (packed.scales_shape, scales.dtype)
    for r in range(packed.panels * lanes):
        for c in range(columns):
            code = int(codes[r, c]) if r < shape[0] and c < shape[1] else 0
            if bits == 8:
                at = (r // lanes * columns + c // 4 * 4) * lanes + r % lanes * 4 + c % 4
                assert packed.weights[at] == code + 128
            else:
                at = (r // lanes * columns // 2 + c // 8 * 4) * lanes + r % lanes * 4 + c % 4
                byte = int(packed.weights[at])
                assert (byte >> 4 if c % 8 >= 4 else byte & 15) == code + 8
        for g in range(scales.shape[1]):
            scale = scales[r, g] if r < shape[0] else 0
            assert packed.scales[r // lanes, g, r % lanes] == scale


def test_groups_are_multiples_of_32() -> None:
    codes, scales = codes_of(4, 48, 4, 16)
    with pytest.raises(ValueError, match="groups of 16 columns"):
        pack_codes(codes, scales, bits=4, group=16, lanes=8)


def test_bfloat16_is_rounded_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 20_000, np.uint32)
    ties = (np.arange(4096, dtype=np.uint32) << 16) | 0x8000
    ends = np.array([0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001], np.uint32)
    entries = np.concatenate([bits, ties, ends]).view(np.float32)
    found = (to_bfloat16(entries).astype(np.uint32) << 16).view(np.float32)
    twin = torch.from_numpy(entries).bfloat16().float().numpy()
    assert np.array_equal(np.isnan(found), np.isnan(entries))
    assert np.array_equal(found, twin, equal_nan=True)


def packed_by(kind: str, group: int, rows: int, columns: int, lanes: int) -> tuple[Any, Any]:
    """A matrix and its entries as the format has them."""
    if kind in ("float32", "bfloat16"):
        entries = matrix(rows, columns)
        kept = torch.from_numpy(entries).to(getattr(torch, kind)).float().numpy()
        return pack_floats(entries, kind, lanes), kept
    bits = BITS[kind]
    codes, scales = codes_of(rows, columns, bits, group)
    packed = pack_codes(codes, scales, bits=bits, group=group, lanes=lanes)
    return packed, dequantized(codes, scales, group)


FORMATS = [("float32", 0), ("bfloat16", 0), ("int8", 0), ("int8", 64), ("int4", 32)]


@pytest.mark.parametrize(("kind", "group"), FORMATS)
def test_panels_by_turns(kind: str, group: int) -> None:
    """Panel 2 p is the first's panel p, and panel 2 p + 1 the second's."""
    first, _ = packed_by(kind, group, 19, 70, 8)
    second, _ = packed_by(kind, group, 19, 70, 8)
    second = PackedLinear(
        kind,
        19,
        70,
        8,
        second.weights[::-1].copy(),
        None if second.scales is None else second.scales[::-1].copy(),
        group,
    )
    both = take_turns(first, second)
    assert (both.rows, both.columns, both.panels, both.group) == (48, 70, 6, group)
    assert both.weights.nbytes == both.weight_bytes
    panels = both.weights.reshape(6, -1)
    assert np.array_equal(panels[::2], first.weights.reshape(3, -1))
    assert np.array_equal(panels[1::2], second.weights.reshape(3, -1))
    assert (both.scales is None) == (first.scales is None)
    if both.scales is not None:
        assert first.scales is not None
        assert second.scales is not None
        assert both.scales.shape == both.scales_shape
        assert np.array_equal(both.scales[::2], first.scales)
        assert np.array_equal(both.scales[1::2], second.scales)


def row_of(library: Library, packed: PackedLinear, row: int) -> NDArray[np.float32]:
    read = library.function("row")
    read.restype, read.argtypes = None, (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    found = np.empty(packed.columns, np.float32)
    read(ctypes.byref(_linear(packed)), row, found.ctypes.data)
    return found


def product(library: Library, packed: PackedLinear, x: NDArray[np.float32]) -> NDArray[np.float32]:
    of, room = library.function("multiply"), library.function("multiply_scratch")
    room.restype, room.argtypes = ctypes.c_int64, (ctypes.c_int64, ctypes.c_int64)
    of.restype = None
    of.argtypes = (
        ctypes.POINTER(_Linear),
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_float,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    scratch = np.empty(room(len(x), packed.columns) + 64, np.uint8)
    y = np.empty((len(x), packed.rows), np.float32)
    aligned = -(-scratch.ctypes.data // 64) * 64
    linear = ctypes.byref(_linear(packed))
    of(linear, len(x), x.ctypes.data, 0.0, y.ctypes.data, aligned)
    return y


@pytest.mark.skipif("scalar" not in available_tiers(), reason="the native core is not built")
@pytest.mark.parametrize(("kind", "group"), FORMATS)
@pytest.mark.parametrize("shape", [(5, 3), (21, 150)])
def test_the_core_reads_what_was_packed(kind: str, group: int, shape: tuple[int, int]) -> None:
    library = load("scalar")
    packed, entries = packed_by(kind, group, *shape, library.lanes)
    for row in range(shape[0]):
        assert np.array_equal(row_of(library, packed, row), entries[row])
    x = matrix(4, shape[1], seed=3)
    twin = x.astype(np.float64) @ entries.T.astype(np.float64)
    terms = np.abs(x) @ np.abs(entries).T
    bound = {"float32": 1e-6, "bfloat16": 2.0**-8}.get(kind, 0)
    # whole-number products round x to 127 steps up to its largest entry
    steps = np.abs(x).max() / 127 / 2 * np.abs(entries).sum(1) if kind[:3] == "int" else 0
    error = np.abs(product(library, packed, x) - twin)
    assert (error <= bound * terms + steps * 1.01 + 1e-6).all()
