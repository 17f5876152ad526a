"""Grids: rounding is nearest, scales are the best of a search, and group sizes divide."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from said import said

from puna.errors import ModelFolderError
from puna.quantization.grid import Grid, nearest_codes, search_scales, spread

GRIDS = [Grid(8, 0), Grid(4, 32), Grid(4, 64)]


def random_matrix(seed: int, outputs: int = 6, inputs: int = 128) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_on_the_grid_come_back(grid: Grid) -> None:
    """Codes that use the whole range, times scales of powers of two, are found exactly."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(grid.lowest, grid.highest + 1, (5, 128), generator=generator).float()
    size = grid.group or 128
    codes[:, ::size] = grid.lowest
    scales = 2.0 ** torch.randint(-9, -3, (5, 128 // size), generator=generator)
    weight = codes * spread(scales, 128)
    found = search_scales(weight, grid)
    assert found.dtype == grid.scale_dtype
    again = nearest_codes(weight, spread(found, 128), grid) * spread(found, 128)
    torch.testing.assert_close(again, weight, rtol=2e-3, atol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.integers(-6, 4))
def test_the_search_is_better_than_the_largest_magnitude(seed: int, power: int) -> None:
    """A scale that lets the largest magnitude fall on the last code is what the search improves
    on; with importance, in the weighted error.
    """
    weight = random_matrix(seed) * 2.0**power
    h = random_matrix(seed + 1, 1)[0].square()
    plain = (weight.view(6, -1, 32).abs().amax(-1) / 7).half()
    grid = Grid(4, 32)

    def error(scales: torch.Tensor) -> float:
        wide = spread(scales, 128)
        d = weight - nearest_codes(weight, wide, grid) * wide
        return float((h * d * d).sum())

    assert error(search_scales(weight, grid, h)) < 0.9 * error(plain)


def test_importance_decides() -> None:
    """A large weight that hardly counts is cut off, and all others are nearer."""
    weight = random_matrix(2, 1, 32).clamp(-1.2, 1.2)
    weight[0, 8] = 2.0
    h = torch.ones(32)
    h[8] = 1e-5
    others = torch.arange(32) != 8

    def error(scales: torch.Tensor) -> float:
        d = weight - nearest_codes(weight, scales.float(), Grid(4, 32)) * scales.float()
        return float(d[0, others].square().sum())

    assert error(search_scales(weight, Grid(4, 32), h)) < 0.8 * error(
        search_scales(weight, Grid(4, 32))
    )


def test_a_group_of_zeros_stays_zero() -> None:
    weight = random_matrix(0)
    weight[:, :32] = 0
    scales = search_scales(weight, Grid(4, 32))
    wide = spread(scales, 128)
    assert torch.isfinite(scales).all()
    assert not nearest_codes(weight, wide, Grid(4, 32))[:, :32].any()


def test_bits_with_the_scales() -> None:
    assert Grid(4, 64).stored_bits(576) == 4.25
    assert Grid(4, 128).stored_bits(576) == 4.125
    assert Grid(8, 0).stored_bits(64) == 8.5


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ModelFolderError, match=said("group 64 ... 96 inputs ... 32")):
        search_scales(random_matrix(0, 2, 96), Grid(4, 64))
    with pytest.raises(ModelFolderError, match=said("float16 ... 65504 ... int8")):
        search_scales(random_matrix(0) * 1e7, Grid(4, 32))
