"""Blocks of K types, read again by the `gguf` package: errors against closed forms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType as Type

from puna.formats import gguf_k_quants
from puna.formats.gguf_k_quants import quantize_q4_k, quantize_q6_k

Quantize = Callable[[Any], Any]
BOTH = pytest.mark.parametrize(
    ("quantize", "kind", "group", "steps"),
    [(quantize_q4_k, Type.Q4_K, 32, 15), (quantize_q6_k, Type.Q6_K, 16, 63)],
    ids=["Q4_K", "Q6_K"],
)


def back(quantize: Quantize, kind: Type, rows: Any) -> Any:
    return quants.dequantize(quantize(rows.astype(np.float32)), kind)


@BOTH
def test_no_value_is_off_by_more_than_its_groups_step(
    quantize: Quantize, kind: Type, group: int, steps: int
) -> None:
    """A step is the span of the group over the number of steps; the scale of a group is rounded to
    a share of the block's largest (of 63 or 127), which adds at most as much again where groups are
    alike.
    """
    rows = np.random.default_rng(1).uniform(-1, 1, (40, 512))
    error = np.abs(back(quantize, kind, rows) - rows).reshape(-1, group)
    assert error.max() < 2 * 2 / steps


@BOTH
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_errors_scale_with_the_values(
    quantize: Quantize, kind: Type, group: int, steps: int, scale: float
) -> None:
    rows = np.random.default_rng(2).standard_normal((20, 256))
    error = np.linalg.norm(back(quantize, kind, rows * scale) / scale - rows)
    assert error / np.linalg.norm(rows) < 1.25 / steps


@BOTH
def test_blocks_without_a_span(quantize: Quantize, kind: Type, group: int, steps: int) -> None:
    rows = np.zeros((5, 256))
    rows[1], rows[2], rows[3, 100], rows[4] = 3.0, -3.0, 1.0, 1e-30
    found = back(quantize, kind, rows)
    assert np.isfinite(found).all()
    assert (found[0] == 0).all()
    assert np.abs(found[1:3] - rows[1:3]).max() < 3 * 0.02
    assert np.abs(found[3] - rows[3]).max() < 0.02  # a lone value, zeros around it
    assert (np.abs(found[4]) < 1e-6).all()


def test_a_value_of_the_grid_is_kept() -> None:
    """One scale, no minimum, all sixteen levels in every group: nothing is to be rounded."""
    levels = np.tile(np.arange(16), 16) * 0.25
    assert np.abs(back(quantize_q4_k, Type.Q4_K, levels[None]) - levels).max() < 4e-3
    levels = np.random.default_rng(4).integers(-32, 32, (16, 16))
    levels[:, 0] = -32  # the level that decides a group's scale
    levels = levels.reshape(1, 256) * 0.5
    assert np.abs(back(quantize_q6_k, Type.Q6_K, levels) - levels).max() < 4e-3


@BOTH
def test_steps_of_the_work_do_not_show(
    quantize: Quantize, kind: Type, group: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(3).standard_normal((7, 768)).astype(np.float32)
    whole = quantize(rows)
    monkeypatch.setattr(gguf_k_quants, "_BLOCKS_AT_ONCE", 4)
    assert np.array_equal(quantize(rows), whole)
