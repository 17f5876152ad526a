"""RMSNorm against its formula, its invariances and transformers' class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from puna.nn import RMSNorm


def norm_with_weight(width: int, eps: float = 1e-5, dtype: torch.dtype = torch.float32) -> RMSNorm:
    norm = RMSNorm(width, eps)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, width))
    return norm.to(dtype)


def by_hand(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula, entry by entry in Python's doubles."""
    rows = []
    for row in x.double().flatten(0, -2).tolist():
        root = (sum(entry * entry for entry in row) / len(row) + eps) ** 0.5
        rows.append([entry / root * gain for entry, gain in zip(row, weight.tolist(), strict=True)])
    return torch.tensor(rows, dtype=torch.float64).view(x.shape)


def test_is_its_formula() -> None:
    norm = norm_with_weight(7, eps=1e-3)
    x = torch.randn(2, 3, 7)
    torch.testing.assert_close(
        norm(x).double(), by_hand(x, norm.weight, 1e-3), rtol=1e-6, atol=1e-6
    )


def test_starts_as_ones() -> None:
    assert torch.equal(RMSNorm(5).weight, torch.ones(5))


def test_statistics_of_bfloat16_are_float32() -> None:
    """Squares of 1e20 overflow nothing in float32 only if they are taken there; small differences
    survive the sum of 4096 squares.
    """
    x = torch.randn(4, 4096).bfloat16()
    exact = by_hand(x, torch.ones(4096), 1e-5)
    assert torch.equal(RMSNorm(4096).bfloat16()(x), exact.bfloat16())
    in_bfloat16 = x * torch.rsqrt(x.square().cumsum(-1)[..., -1:] / 4096 + 1e-5)
    assert not torch.equal(in_bfloat16, exact.bfloat16()), (
        "the check above would not notice statistics in bfloat16"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_equals_transformers_bit_for_bit(dtype: torch.dtype, eps: float) -> None:
    ours = norm_with_weight(96, eps, dtype)
    theirs = LlamaRMSNorm(96, eps).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = (10 * torch.randn(3, 17, 96)).to(dtype)
    result = ours(x)
    assert result.dtype == dtype
    assert torch.equal(result, theirs(x))


def test_weight_multiplies_after_the_cast() -> None:
    """The other order rounds once instead of twice; on 4,096 values in bfloat16 the two must differ
    somewhere.
    """
    norm = norm_with_weight(64, dtype=torch.bfloat16)
    x = torch.randn(64, 64).bfloat16()
    normalised = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + norm.eps)
    assert torch.equal(norm(x), norm.weight * normalised.bfloat16())
    assert not torch.equal(norm(x), (norm.weight.float() * normalised).bfloat16())


@given(scale=st.floats(1e-2, 1e6))
def test_scale_invariant(scale: float) -> None:
    norm = norm_with_weight(8, eps=1e-12)
    x = torch.linspace(-2, 3, 8)
    torch.testing.assert_close(norm(scale * x), norm(x), rtol=1e-5, atol=1e-6)


def test_not_shift_invariant() -> None:
    x = torch.linspace(-2, 3, 8)
    assert (RMSNorm(8)(x + 1) - RMSNorm(8)(x)).abs().max() > 0.1


def test_equals_layer_norm_on_rows_of_mean_zero() -> None:
    x = torch.randn(5, 16)
    x = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(RMSNorm(16)(x), torch.nn.functional.layer_norm(x, (16,)))


def test_output_has_root_mean_square_one() -> None:
    rms = RMSNorm(256)(3 * torch.randn(10, 256)).square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.ones(10), rtol=1e-5, atol=0)


def test_gradients_equal_the_closed_form() -> None:
    """With r = 1/sqrt(mean(x^2) + eps) and h = g * w: dx = r h - r^3 x mean(h x), dw = sum over
    rows of g r x.
    """
    norm = norm_with_weight(9)
    x, g = torch.randn(4, 9, requires_grad=True), torch.randn(4, 9)
    norm(x).backward(g)
    wide, h = x.detach().double(), (g * norm.weight.detach()).double()
    r = (wide.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    torch.testing.assert_close(
        x.grad.double(),
        r * h - r**3 * wide * (h * wide).mean(-1, keepdim=True),
        rtol=1e-5,
        atol=1e-6,
    )
    torch.testing.assert_close(
        norm.weight.grad.double(), (g * r * wide).sum(0), rtol=1e-5, atol=1e-6
    )


def test_at_zero_the_value_is_zero_and_the_slope_is_one_over_root_eps() -> None:
    """eps inside the root: 1/sqrt(1e-4) = 100. Outside it would be 1/eps = 10,000."""
    x = torch.zeros(6, requires_grad=True)
    y = RMSNorm(6, eps=1e-4)(x)
    assert torch.equal(y, torch.zeros(6))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((6,), 100.0))


def test_prints_its_width_and_epsilon() -> None:
    assert repr(RMSNorm(8192, 1e-5)) == "RMSNorm((8192,), eps=1e-05)"
