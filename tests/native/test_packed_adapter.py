"""Adapters in the native core's layout: read back entry by entry, they are what was packed."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from puna.errors import NativeError
from puna.inference.native_weights import random_parts
from puna.native.library import available_tiers, load
from puna.native.model_runner import ModelRunner
from puna.native.packed_adapter import LowRankPart, PackedAdapter, PackedUpdate, pack_update
from puna.native.packed_model import DecoderShape, PackedModel

LANES = 4


def part_of(seed: int, rank: int, rows: NDArray[np.int64], columns: int = 6) -> LowRankPart:
    random = np.random.default_rng(seed)
    a = random.standard_normal((rank, columns), np.float32)
    return LowRankPart(a, random.standard_normal((len(rows), rank), np.float32), rows)


def delta(update: PackedUpdate, lanes: int) -> NDArray[np.float32]:
    """B A [rows, columns], as native/lora.h reads the arrays."""
    columns = update.a.columns
    panels = update.a.weights.view(np.float32).reshape(update.a.panels, columns, lanes)
    a = panels.transpose(0, 2, 1).reshape(-1, columns)
    found = np.zeros((len(update.panels) * lanes, columns), np.float32)
    for panel, (begin, end, at) in enumerate(update.panels):
        b = update.b[at : at + (end - begin) * lanes].reshape(-1, lanes)
        found[panel * lanes : (panel + 1) * lanes] = b.T @ a[begin:end]
    return found


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        ([range(8), range(8, 12), range(12, 16)], {(0, 2), (2, 5), (5, 6)}),
        ([range(6), range(6, 7), range(7, 15)], {(0, 2), (0, 6), (5, 6)}),  # parts share a panel
        ([(0, 1, 2, 3, 8, 9), (4, 5, 6, 7, 12, 13), ()], {(0, 2), (2, 5)}),  # they take turns
        ([(), (4, 5), ()], {(0, 0), (2, 5)}),  # whole panels without an update
    ],
)
def test_what_was_packed_is_added_to_its_own_rows(
    rows: list[tuple[int, ...] | range], sizes: set[tuple[int, int]]
) -> None:
    parts = [
        part_of(seed, rank, np.array(each, np.int64))
        for seed, (rank, each) in enumerate(zip((2, 3, 1), rows, strict=True))
    ]
    update = pack_update(parts, 4, LANES)
    wanted = np.zeros((16, 6), np.float32)
    for part in parts:
        wanted[part.rows] = part.b @ part.a
    np.testing.assert_allclose(delta(update, LANES), wanted, rtol=1e-5, atol=1e-6)
    assert {(int(begin), int(end)) for begin, end, _ in update.panels} == sizes
    assert len(update.b) == LANES * sum(end - begin for begin, end, _ in update.panels)
    assert PackedAdapter({"0.qkv": update}).ranks == 6


@pytest.mark.skipif(not available_tiers(), reason="the native core is not built")
def test_an_adapter_of_another_model_is_an_error() -> None:
    library = load()
    shape = DecoderShape(16, 1, 2, 1, 8, 24, 32, 16, 4, 1e-5, 1.0, 0)
    model = PackedModel(shape, library.lanes, half=False)
    for name, part in random_parts(shape, "float32", library.lanes):
        model.add(name, part)
    panels = model.linears["0.down"].panels
    fitting = pack_update([part_of(1, 2, np.arange(16), columns=24)], panels, library.lanes)

    def built(matrix: str, update: PackedUpdate) -> ModelRunner:
        adapters = {"tales": PackedAdapter({matrix: update})}
        return ModelRunner(
            library, model, num_blocks=1, block_size=16, threads=1, adapters=adapters
        )

    assert list(built("0.down", fitting).adapters) == ["tales"]
    for matrix, update, message in (
        ("1.down", fitting, "'tales' updates '1.down', which is no matrix of a layer"),
        ("embedding", fitting, "'tales' updates 'embedding', which is no matrix of a layer"),
        ("0.qkv", fitting, "'tales' has an update of format, columns, lanes and panels"),
        ("0.down", replace(fitting, panels=fitting.panels[:-1]), "for '0.down', which has"),
    ):
        with pytest.raises(NativeError, match=message):
            built(matrix, update)
