"""LayerNorm and its two halves against their formulas, their invariances and PyTorch's class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from puna.nn import CenterNorm, LayerNorm, RMSNorm, ScaleNorm


def trained(shape: int | tuple[int, ...], eps: float = 1e-5) -> LayerNorm:
    norm = LayerNorm(shape, eps)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    return norm


def by_hand(x: list[float], weight: list[float], bias: list[float], eps: float) -> list[float]:
    """The formula in Python's doubles, for one row."""
    mean = sum(x) / len(x)
    variance = sum((entry - mean) ** 2 for entry in x) / len(x)
    return [
        (entry - mean) / (variance + eps) ** 0.5 * g + b
        for entry, g, b in zip(x, weight, bias, strict=True)
    ]


@pytest.mark.parametrize(
    ("lead", "shape"),
    [((2, 3), (7,)), ((4,), (3, 2, 5)), ((), (6,))],
    ids=["language", "vision", "one row"],
)
def test_is_its_formula(lead: tuple[int, ...], shape: tuple[int, ...]) -> None:
    norm = trained(shape, 1e-3).double()
    x = 2 * torch.randn(*lead, *shape, dtype=torch.float64) + 1
    weight, bias = norm.weight.flatten().tolist(), norm.bias.flatten().tolist()
    expected = [
        by_hand(row, weight, bias, 1e-3) for row in x.view(-1, norm.weight.numel()).tolist()
    ]
    torch.testing.assert_close(
        norm(x), torch.tensor(expected, dtype=torch.float64).view(x.shape), rtol=1e-13, atol=1e-13
    )


def test_the_variance_is_the_biased_one() -> None:
    """Two entries are one deviation from their mean: 1 apart from it, not 1/sqrt(2)."""
    y = LayerNorm(2, 0.0)(torch.tensor([3.0, 9.0]))
    torch.testing.assert_close(y, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_torch_bit_for_bit_and_shares_its_state_dict(dtype: torch.dtype) -> None:
    ours, theirs = trained((4, 24)).to(dtype), nn.LayerNorm((4, 24)).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = (5 * torch.randn(3, 4, 24) + 2).to(dtype)
    assert torch.equal(ours(x), theirs(x))
    ours.load_state_dict(theirs.state_dict())


def test_bfloat16_is_the_exact_result_rounded_once() -> None:
    norm = trained(256).bfloat16()
    x = (torch.randn(16, 256) + 3).bfloat16()
    result = norm(x)
    exact = norm.double()(x.double()).bfloat16()
    # float32 and float64 fall on the two sides of a tie now and then
    assert (result != exact).float().mean() < 1e-3
    torch.testing.assert_close(result, exact, rtol=2**-7, atol=0)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_shift_and_scale_invariant(scale: float, shift: float) -> None:
    norm, x = LayerNorm(8, 0.0).double(), torch.linspace(-2, 3, 8, dtype=torch.float64) ** 2
    torch.testing.assert_close(norm(scale * x + shift), norm(x), rtol=1e-7, atol=1e-7)


def test_a_language_model_has_a_mean_for_every_position() -> None:
    """B T means and variances: each row of the result has mean 0 and variance 1 by itself, though
    the rows differ a millionfold.
    """
    x = torch.randn(3, 5, 64, dtype=torch.float64) * torch.logspace(
        -3, 3, 15, dtype=torch.float64
    ).view(3, 5, 1) + torch.randn(3, 5, 1)
    y = LayerNorm(64, 0.0)(x.float()).double()
    torch.testing.assert_close(
        y.mean(-1), torch.zeros(3, 5, dtype=torch.float64), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        y.var(-1, unbiased=False), torch.ones(3, 5, dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("shape", "means"), [((4,), (2, 3)), ((3, 4), (2,))], ids=["one a position", "one an example"]
)
def test_no_statistic_is_shared_over_the_batch(
    shape: tuple[int, ...], means: tuple[int, ...]
) -> None:
    """A changed entry changes exactly the rows that share its mean: all others stay the same to the
    bit.
    """
    norm, x = trained(shape), torch.randn(2, 3, 4)
    before = norm(x)
    x[0, 0, 0] += 1
    changed = (norm(x) != before).flatten(len(means)).any(-1)
    expected = torch.zeros(means, dtype=torch.bool)
    expected[(0,) * len(means)] = True
    assert torch.equal(changed, expected)


def test_a_single_row_gives_what_it_gives_in_a_batch() -> None:
    norm, x = trained(8).double(), torch.randn(10, 8, dtype=torch.float64)
    torch.testing.assert_close(norm(x[3:4]), norm(x)[3:4], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("weight", "bias", "names"),
    [(True, False, {"weight"}), (False, True, {"bias"}), (False, False, set())],
)
def test_parameters_that_are_off_mean_ones_and_zeros(
    weight: bool, bias: bool, names: set[str]
) -> None:
    norm, x = LayerNorm((2, 4), weight=weight, bias=bias), torch.randn(3, 2, 4)
    assert norm.state_dict().keys() == names
    assert torch.equal(norm(x), LayerNorm((2, 4))(x))


def test_starts_as_ones_and_zeros() -> None:
    norm = LayerNorm((2, 3))
    assert torch.equal(norm.weight, torch.ones(2, 3))
    assert torch.equal(norm.bias, torch.zeros(2, 3))


def test_rms_norm_equals_it_without_bias_where_the_mean_is_zero() -> None:
    x = torch.randn(5, 16, dtype=torch.float64)
    x = x - x.mean(-1, keepdim=True)
    layer, rms = trained(16), RMSNorm(16)
    with torch.no_grad():
        layer.bias.zero_()
        rms.weight.copy_(layer.weight)
    torch.testing.assert_close(rms.double()(x), layer.double()(x), rtol=1e-13, atol=1e-13)


# The two halves


def test_layer_norm_is_centring_then_scaling() -> None:
    x = 3 * torch.randn(4, 9, dtype=torch.float64) + 2
    halves = nn.Sequential(CenterNorm(9), ScaleNorm(9, 1e-3)).double()
    torch.testing.assert_close(
        halves(x), LayerNorm(9, 1e-3, weight=False, bias=False)(x), rtol=1e-13, atol=1e-13
    )
    other_order = nn.Sequential(ScaleNorm(9, 1e-3), CenterNorm(9)).double()
    assert (other_order(x) - halves(x)).abs().max() > 1e-2


def test_center_norm_is_its_formula() -> None:
    norm = CenterNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(norm(torch.tensor([1.0, 2.0, 6.0])), torch.tensor([-2.0, -2.0, 9.0]))


@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_center_norm_forgets_the_shift_and_keeps_the_scale(shift: float, scale: float) -> None:
    norm, x = CenterNorm(8).double(), torch.linspace(-2, 3, 8, dtype=torch.float64) ** 2
    torch.testing.assert_close(norm(scale * x + shift), scale * norm(x), rtol=1e-9, atol=1e-9)


def test_center_norm_takes_the_mean_of_bfloat16_in_float32() -> None:
    """In bfloat16 the mean of 4,096 values about 100 would be rounded to a half; here it is right
    to the last entry.
    """
    x = (torch.randn(2, 4096) + 100).bfloat16()
    exact = x.double() - x.double().mean(-1, keepdim=True)
    result = CenterNorm(4096).bfloat16()(x).double()
    torch.testing.assert_close(result, exact, rtol=2**-8, atol=1e-5)


def test_scale_norm_has_one_parameter_of_one_entry() -> None:
    """Not 0-dimensional: fully sharded training rejects those."""
    assert {name: parameter.shape for name, parameter in ScaleNorm(512).named_parameters()} == {
        "weight": (1,)
    }


def test_scale_norm_is_the_published_formula_with_g_over_root_d() -> None:
    """Nguyen & Salazar: g x / |x|, with g = sqrt(D) at the start."""
    x, norm = torch.randn(5, 12, dtype=torch.float64), ScaleNorm(12, 0.0).double()
    length = x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(norm(x), 12**0.5 * x / length, rtol=1e-14, atol=0)
    with torch.no_grad():
        norm.weight.fill_(7 / 12**0.5)
    torch.testing.assert_close(norm(x), 7 * x / length, rtol=1e-14, atol=0)


@given(scale=st.floats(1e-3, 1e3))
def test_scale_norm_forgets_the_scale_and_keeps_the_shift(scale: float) -> None:
    norm, x = ScaleNorm(8, 0.0).double(), torch.linspace(-2, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(norm(scale * x), norm(x), rtol=1e-13, atol=1e-13)
    assert (norm(x + 1) - norm(x)).abs().max() > 0.1


def gradient_of_scale(x: Tensor, g: Tensor, norm: ScaleNorm) -> Tensor:
    norm.zero_grad()
    norm(x).backward(g)
    return norm.weight.grad


def test_the_gradient_of_the_one_gain_is_the_sum_over_all_entries() -> None:
    x, g, norm = torch.randn(4, 6), torch.randn(4, 6), ScaleNorm(6)
    expected = (g * norm(x).detach()).sum()
    torch.testing.assert_close(gradient_of_scale(x, g, norm), expected.view(1))
