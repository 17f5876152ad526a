"""Packed files: what was written comes back, and damaged files are refused by one error."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import NativeError
from puna.inference.native_weights import WeightFormat, random_parts
from puna.native import packed_model
from puna.native.library import Library, available_tiers, load
from puna.native.model_runner import ModelRunner
from puna.native.packed_model import (
    MAGIC,
    DecoderShape,
    PackedModel,
    Part,
    map_packed,
    write_packed,
)
from puna.native.packing import PackedLinear

SHAPE = DecoderShape(
    width=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=6,
    hidden=40,
    vocabulary=50,
    positions=32,
    rotary_half=3,
    eps=1e-5,
    embedding_scale=1.0,
    activation=0,
)
LANES = 8


def parts_in(kind: WeightFormat, tied: bool = False) -> list[Part]:
    return list(random_parts(SHAPE, kind, LANES, tied=tied))


def written(path: Path, kind: WeightFormat = "int8", tied: bool = False) -> Path:
    write_packed(path, SHAPE, parts_in(kind, tied), lanes=LANES, half=kind != "float32")
    return path


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_what_was_written_comes_back(kind: WeightFormat, tied: bool, tmp_path: Path) -> None:
    model = map_packed(written(tmp_path / "x.packed", kind, tied))
    assert (model.shape, model.lanes, model.half) == (SHAPE, LANES, kind != "float32")
    assert ("head" in model.linears, model.head is model.linears["embedding"]) == (not tied, tied)
    parts = dict(parts_in(kind, tied))
    assert parts.keys() == model.linears.keys() | model.vectors.keys()
    for name, part in parts.items():
        if isinstance(part, PackedLinear):
            found = model.linears[name]
            assert replace(found, weights=part.weights, scales=part.scales) == part
            assert np.array_equal(found.weights, part.weights)
            assert (found.scales is None) == (part.scales is None)
            if found.scales is not None:
                assert part.scales is not None
                assert found.scales.dtype == part.scales.dtype
                assert np.array_equal(found.scales, part.scales)
            assert found.weights.ctypes.data % 64 == 0
        else:
            assert np.array_equal(model.vectors[name], part)
    assert model.nbytes == sum(p.nbytes for p in parts.values() if isinstance(p, PackedLinear))
    assert [path.name for path in tmp_path.iterdir()] == ["x.packed"]


def test_a_model_in_memory_is_the_same_as_from_a_file(tmp_path: Path) -> None:
    model = PackedModel(SHAPE, LANES, half=True)
    for name, part in parts_in("int8"):
        model.add(name, part)
    mapped = map_packed(written(tmp_path / "x.packed"))
    assert list(model.linears) == [name for name, *_ in SHAPE.linears(LANES, tied=False)]
    assert model.nbytes == mapped.nbytes


def test_a_file_that_was_cut_off_is_refused_wherever(tmp_path: Path) -> None:
    path = written(tmp_path / "x.packed")
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[-16:-8])
    description = len(whole) - 16 - length
    near = {0, 8, description, len(whole) - 16, len(whole) - 8, len(whole)}
    sizes = {size for end in near for size in range(end - 9, end + 2)} | set(
        range(0, len(whole), 997)
    )
    for size in sorted(size for size in sizes if 0 <= size < len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(NativeError):
            map_packed(path)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the file's description anew after a change."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[-16:-8])
    found = json.loads(whole[-16 - length : -16])
    change(found)
    text = json.dumps(found).encode()
    path.write_bytes(whole[: -16 - length] + text + struct.pack("<Q", len(text)) + MAGIC)


def part(name: str, **changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["parts"][name].update(changes)


def weights(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["parts"]["0.down"]["weights"].update(changes)


def scales(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["parts"]["0.down"]["scales"].update(changes)


def shape(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["shape"].update(changes)


def top(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        top(version=2),
        top(version="1"),
        top(lanes=0),
        top(lanes=16),
        top(lanes=65),
        top(lanes=True),
        top(lanes="8"),
        top(parts=[]),
        top(parts=None),
        top(shape=None),
        top(shape=[]),
        shape(width=23),
        shape(width=-24),
        shape(width=24.0),
        shape(width=1 << 31),
        shape(layers=3),
        shape(layers=(1 << 31) - 1),
        shape(heads=5),
        shape(kv_heads=1),
        shape(hidden=48),
        shape(vocabulary=(1 << 31) - 1),
        shape(positions=33),
        shape(rotary_half=2),
        shape(other=1),
        shape(eps="1e-5"),
        shape(embedding_scale=None),
        lambda found: found["shape"].pop("width"),
        lambda found: found["parts"].pop("norm"),
        lambda found: found["parts"].pop("0.down"),
        lambda found: found["parts"].update({"0.down": 7}),
        lambda found: found["parts"].update({"norm": None}),
        part("0.down", format="int2"),
        part("0.down", format=["int8"]),
        part("0.down", format="float32"),
        part("0.down", format="int4"),
        part("0.down", rows=25),
        part("0.down", columns=41),
        part("0.down", group=32),
        part("0.down", group=-32),
        part("0.down", group=33),
        part("0.down", group="0"),
        part("0.down", scales=None),
        part("norm", shape=[25]),
        part("norm", shape=[-24]),
        part("norm", type="float64"),
        part("norm", offset=1 << 62),
        part("norm", offset=1 << 70),
        weights(offset=-64),
        weights(offset=9),
        weights(offset=64.0),
        weights(offset=None),
        weights(offset=1 << 20),
        weights(shape=[1]),
        weights(shape=3),
        weights(type="int8"),
        scales(offset=1 << 40),
        scales(type="float16"),
        scales(shape=[3, 2, 8]),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    path = written(tmp_path / "x.packed")
    changed(path, change)
    with pytest.raises(NativeError, match=r"x\.packed is no packed model .*remove it"):
        map_packed(path)


def test_the_last_array_may_not_reach_past_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "x.packed")
    inside = (path.stat().st_size - SHAPE.width * 4) // 64 * 64
    changed(path, part("norm", offset=inside))
    map_packed(path)
    changed(path, part("norm", offset=inside + 128))
    with pytest.raises(NativeError, match="outside the file"):
        map_packed(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PUNAPACK",
        MAGIC + struct.pack("<Q", 0) + MAGIC,
        MAGIC + struct.pack("<Q", 1) + MAGIC,
        MAGIC + struct.pack("<Q", 1 << 63) + MAGIC,
        MAGIC + struct.pack("<Q", (1 << 64) - 1) + MAGIC,
        MAGIC + b"[]" + struct.pack("<Q", 2) + MAGIC,
        MAGIC + b"{}" + struct.pack("<Q", 2) + MAGIC,
        MAGIC + b"\xff{" + struct.pack("<Q", 2) + MAGIC,
        MAGIC + b"[" * 100_000 + struct.pack("<Q", 100_000) + MAGIC,
        b"PUNAPACX" + b"{}" + struct.pack("<Q", 2) + MAGIC,
        MAGIC + b"{}" + struct.pack("<Q", 2) + b"PUNAPACX",
        b"\x00" * 4096,
    ],
    ids=range(13),
)
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.packed"
    path.write_bytes(content)
    with pytest.raises(NativeError, match=r"x\.packed is no packed model"):
        map_packed(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_packed(tmp_path / "x.packed")


def no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.packed"
    monkeypatch.setattr(packed_model.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        written(path)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    before = written(path).read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        written(path, "float32")
    assert [other.name for other in tmp_path.iterdir()] == ["x.packed"]
    assert path.read_bytes() == before


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def parts() -> Any:
        yield from parts_in("int8")[:3]
        raise ValueError("a damaged model")

    with pytest.raises(ValueError, match="a damaged model"):
        write_packed(tmp_path / "x.packed", SHAPE, parts(), lanes=LANES, half=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def library() -> Library:
    if not available_tiers():
        pytest.skip("the native core is not built")
    return load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0, "kv_heads": 0}, "query heads that do not divide"),
        ({"heads": 3, "kv_heads": 2}, "query heads that do not divide"),
        ({"head_width": 0, "rotary_half": 0}, "heads without width"),
        ({"rotary_half": 4}, "rotary tables wider than a head"),
        ({"activation": 5}, "activation 5"),
        ({"hidden": 0}, "no width"),
        ({"vocabulary": 0}, "no width"),
    ],
)
def test_a_shape_that_the_core_cannot_run_is_refused(
    changes: dict[str, Any], message: str, library: Library
) -> None:
    changed_shape = replace(SHAPE, **changes)
    model = PackedModel(changed_shape, library.lanes, half=False)
    with pytest.raises(NativeError, match=message):
        ModelRunner(library, model, num_blocks=2, block_size=16, threads=1)


def test_other_panels_or_blocks_are_refused(library: Library) -> None:
    other = PackedModel(SHAPE, library.lanes + 1, half=False)
    with pytest.raises(NativeError, match=f"packed for {library.lanes + 1} lanes"):
        ModelRunner(library, other, num_blocks=2, block_size=16, threads=1)
    own = PackedModel(SHAPE, library.lanes, half=False)
    with pytest.raises(NativeError, match="no multiple of 16"):
        ModelRunner(library, own, num_blocks=2, block_size=24, threads=1)
