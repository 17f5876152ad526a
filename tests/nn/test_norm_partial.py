"""pRMSNorm: how many entries count, and that only they do."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.nn import PartialRMSNorm, RMSNorm
from puna.nn.norm import partial_width


@pytest.mark.parametrize(
    ("width", "fraction", "floor", "ceil"),
    [
        (512, 0.0625, 32, 32),  # the paper's 6.25% of the Transformer's 512
        (1000, 0.0625, 62, 63),  # 62.5
        (10, 0.25, 2, 3),
        (8, 0.5, 4, 4),
        (100, 0.07, 7, 7),  # 7.000000000000001 in floating point: a ceiling of that would be 8
        (100, 0.29, 28, 29),  # 28.999999999999996: the published class takes 28
        (9, 1.0, 9, 9),
        (9, -1.0, 9, 9),  # the published default: off
        (9, 1.5, 9, 9),
    ],
)
def test_how_many_entries_count(width: int, fraction: float, floor: int, ceil: int) -> None:
    assert partial_width(width, fraction) == floor
    assert partial_width(width, fraction, "ceil") == ceil
    assert PartialRMSNorm(width, fraction).entries == floor
    assert PartialRMSNorm(width, fraction, rounding="ceil").entries == ceil


@given(width=st.integers(1, 100_000), percent=st.integers(1, 100))
def test_ceil_is_exact_for_every_percentage(width: int, percent: int) -> None:
    assert partial_width(width, percent / 100, "ceil") == math.ceil(Fraction(width * percent, 100))


@given(width=st.integers(1, 100_000), fraction=st.floats(0, 1))
def test_floor_is_the_published_expression(width: int, fraction: float) -> None:
    entries = int(width * fraction)
    if entries:
        assert partial_width(width, fraction) == entries
    else:
        with pytest.raises(ValueError, match="leaves none"):
            partial_width(width, fraction)


@pytest.mark.parametrize(("fraction", "rounding"), [(0.1, "floor"), (0.0, "floor"), (0.0, "ceil")])
def test_no_entry_is_rejected_with_the_remedy(fraction: float, rounding: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"fraction {fraction:g} of 8 entries leaves none by {rounding}: take more than 1/8",
    ):
        PartialRMSNorm(8, fraction, rounding=rounding)


def test_ceil_finds_an_entry_where_floor_finds_none() -> None:
    assert PartialRMSNorm(8, 0.1, rounding="ceil").entries == 1


def test_the_statistic_is_that_of_the_first_entries() -> None:
    """Root mean square of (3, 4) is sqrt(12.5), whatever follows."""
    x = torch.tensor([3.0, 4.0, 100.0, -7.0], dtype=torch.float64)
    torch.testing.assert_close(PartialRMSNorm(4, 0.5, 0.0)(x), x / 12.5**0.5, rtol=1e-15, atol=0)


@pytest.mark.parametrize("fraction", [1.0, -1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_entries_are_rms_norm_bit_for_bit(fraction: float, dtype: torch.dtype) -> None:
    x = torch.randn(6, 96).to(dtype)
    assert torch.equal(PartialRMSNorm(96, fraction).to(dtype)(x), RMSNorm(96).to(dtype)(x))


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_only_the_first_entries_get_gradient_through_the_statistic(place: str) -> None:
    """dy_i/dx_j is r on the diagonal, and only the columns j < k have anything else: minus r^2 x_i
    x_j / (k rms), the path of the statistic (rms is the divisor without eps where eps is outside).
    """
    k, eps = 3, 1e-2
    x = torch.randn(8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        PartialRMSNorm(8, k / 8, eps, eps_place=place).double(), x
    )
    mean_square = x[:k].square().mean()
    divisor = (mean_square + eps).sqrt() if place == "inside" else mean_square.sqrt() + eps
    # d divisor / d x_j = x_j / (k slope)
    slope = divisor if place == "inside" else mean_square.sqrt()
    expected = torch.eye(8, dtype=torch.float64) / divisor
    expected[:, :k] -= torch.outer(x, x[:k]) / (k * slope * divisor**2)
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-14)
    beyond = jacobian[:, k:] - torch.diag(jacobian.diagonal())[:, k:]
    assert torch.equal(beyond, torch.zeros_like(beyond))
    assert (jacobian[:, :k].abs() > 0).all()


@given(scale=st.floats(1e-3, 1e3))
def test_scale_invariant(scale: float) -> None:
    norm, x = PartialRMSNorm(8, 0.25, 0.0).double(), torch.linspace(-2, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(norm(scale * x), norm(x), rtol=1e-13, atol=1e-13)


def test_not_shift_invariant() -> None:
    norm, x = PartialRMSNorm(8, 0.25), torch.linspace(-2, 3, 8)
    assert (norm(x + 1) - norm(x)).abs().max() > 0.1
