"""GPTQ: on a unit matrix it is rounding, on inputs that correlate it is better, and it is never
worse than rounding.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.quantization.gptq import (
    choose_codes,
    damp,
    fit_scales,
    mend_codes,
    quantize_calibrated,
    round_to_nearest,
    row_errors,
)
from puna.quantization.grid import Grid, nearest_codes, search_scales, spread

GRIDS = [Grid(4, 32), Grid(8, 0)]


def matrices(seed: int, inputs: int = 160, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and H of inputs that lie near few directions."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, inputs, generator=generator)
    mixed = torch.randn(tokens, 24, generator=generator) @ torch.randn(
        24, inputs, generator=generator
    )
    x = mixed + 0.5 * torch.randn(tokens, inputs, generator=generator)
    return weight, x.T @ x / tokens


@pytest.mark.parametrize("grid", GRIDS)
def test_on_a_unit_matrix_it_is_round_to_nearest(grid: Grid) -> None:
    weight, _ = matrices(0)
    plain = round_to_nearest(weight, grid, torch.ones(160))
    found = quantize_calibrated(weight, grid, torch.eye(160))
    assert torch.equal(
        choose_codes(weight, spread(plain.scales, 160), grid, damp(torch.eye(160))),
        plain.codes.float(),
    )
    # codes and scales were each the best for the other already, but for float16
    assert (found.codes != plain.codes).float().mean() < 0.02
    torch.testing.assert_close(found.scales, plain.scales, rtol=0.03, atol=0)


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), tokens=st.integers(1, 300))
def test_never_worse_than_round_to_nearest(grid: Grid, seed: int, tokens: int) -> None:
    """Row by row, on the inputs themselves, also where they are fewer than the columns."""
    weight, hessian = matrices(seed, tokens=tokens)
    plain = round_to_nearest(weight, grid, hessian.diagonal()).dequantize()
    found = quantize_calibrated(weight, grid, hessian).dequantize()
    before, after = row_errors(weight - plain, hessian), row_errors(weight - found, hessian)
    assert (after <= before * 1.0001 + 1e-6).all()


def test_much_better_on_inputs_that_correlate() -> None:
    weight, hessian = matrices(3)
    plain = round_to_nearest(weight, Grid(4, 32), hessian.diagonal()).dequantize()
    found = quantize_calibrated(weight, Grid(4, 32), hessian).dequantize()
    ratio = row_errors(weight - found, hessian).sum() / row_errors(weight - plain, hessian).sum()
    assert ratio < 0.5


def test_the_codes_are_those_of_the_plain_recursion() -> None:
    """Section 3.1 of the paper without its speedups: after each input the inverse of what is left
    of H is taken anew.
    """
    weight, hessian = matrices(5, inputs=64)
    grid, hessian = Grid(4, 32), damp(hessian)
    scales = spread(search_scales(weight, grid), 64)
    left, codes = weight.double().clone(), torch.zeros_like(weight)
    order = hessian.diagonal().argsort(descending=True)
    for step, i in enumerate(order):
        rest = order[step:]
        inverse = torch.linalg.inv(hessian[rest][:, rest].double())
        codes[:, i] = nearest_codes(left[:, i].float(), scales[:, i], grid)
        error = (left[:, i] - codes[:, i] * scales[:, i]) / inverse[0, 0]
        left[:, rest] -= error[:, None] * inverse[0]
    found = choose_codes(weight, scales, grid, hessian)
    # the two orders of arithmetic may fall on two sides of a border now and then
    assert (found != codes).float().mean() < 0.01


def test_mending_ends_where_no_single_code_is_better() -> None:
    weight, hessian = matrices(7, inputs=64)
    grid, hessian = Grid(4, 32), damp(hessian)
    scales = spread(search_scales(weight, grid), 64)
    start = nearest_codes(weight, scales, grid)
    codes = mend_codes(weight, scales, grid, hessian, start, rounds=50)
    best = row_errors(weight - codes * scales, hessian)
    assert (best <= row_errors(weight - start * scales, hessian) + 1e-4).all()
    for i in range(64):
        for step in (-1, 1):
            other = codes.clone()
            other[:, i] = (other[:, i] + step).clamp(grid.lowest, grid.highest)
            assert (row_errors(weight - other * scales, hessian) >= best * (1 - 1e-4)).all()


@pytest.mark.parametrize("groups", [1, 5])
def test_scales_that_made_the_weights_are_found(groups: int) -> None:
    """From codes alone; a group of zeros keeps its scale."""
    _, hessian = matrices(2)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (12, 160), generator=generator).float()
    if groups > 1:
        codes[3, :32] = 0
    scales = torch.rand(12, groups, generator=generator) - 0.5
    wrong = scales + 0.1
    found = fit_scales(codes * spread(scales, 160), codes, wrong, damp(hessian))
    if groups > 1:
        scales[3, 0] = wrong[3, 0]
    torch.testing.assert_close(found, scales, rtol=1e-3, atol=1e-4)


def test_inputs_that_are_all_zero_leave_rounding() -> None:
    weight, _ = matrices(1)
    found = quantize_calibrated(weight, Grid(4, 32), torch.zeros(160, 160))
    plain = round_to_nearest(weight, Grid(4, 32))
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.scales, plain.scales)
