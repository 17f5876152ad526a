"""Activations: PyTorch's against their formulas, ours against theirs, and Swish between x/2 and
ReLU.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from puna.nn import SelfGate, Swish, relu_squared

POINTS = torch.linspace(-12, 12, 24001, dtype=torch.float64)
LAMBERT = 0.2784645427610738  # w e^w = 1/e


def test_pytorch_s_activations_are_their_formulas() -> None:
    x = POINTS
    torch.testing.assert_close(F.relu(x), torch.where(x > 0, x, 0.0), rtol=0, atol=0)
    torch.testing.assert_close(F.silu(x), x / (1 + (-x).exp()))
    torch.testing.assert_close(F.gelu(x), x * (1 + torch.erf(x / math.sqrt(2))) / 2)
    torch.testing.assert_close(
        F.gelu(x, approximate="tanh"),
        x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("activation", "value"),
    [
        (F.relu, 1.0),
        (F.silu, 0.7310585786),
        (F.gelu, 0.8413447461),
        (lambda x: F.gelu(x, approximate="tanh"), 0.8411919906),
    ],
    ids=["relu", "silu", "gelu", "gelu by tanh"],
)
def test_values_at_one(activation: Callable[[Tensor], Tensor], value: float) -> None:
    """sigmoid(1), and the normal distribution's Phi(1) with its approximation."""
    assert activation(torch.ones((), dtype=torch.float64)).item() == pytest.approx(value, abs=1e-10)


def test_the_two_gelus_differ_by_less_than_half_a_thousandth() -> None:
    assert 4e-4 < (F.gelu(POINTS) - F.gelu(POINTS, approximate="tanh")).abs().max() < 5e-4


def test_relu_squared_values_and_slopes() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    y = relu_squared(x)
    assert y.tolist() == [0, 0, 0, 0.25, 9]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0, 0, 0, 1, 6]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_relu_squared_equals_hugging_face_s(dtype: torch.dtype) -> None:
    from transformers.activations import ACT2FN

    x = torch.randn(1000).to(dtype)
    assert torch.equal(relu_squared(x), ACT2FN["relu2"](x))


@given(beta=st.floats(-20, 20), x=st.floats(-20, 20))
def test_swish_is_its_formula(beta: float, x: float) -> None:
    expected = x / (1 + math.exp(-beta * x))
    assert Swish(beta=beta)(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(
        expected, rel=1e-12, abs=1e-300
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_swish_with_beta_1_is_silu_bit_for_bit(dtype: torch.dtype) -> None:
    assert torch.equal(Swish()(POINTS.to(dtype)), F.silu(POINTS.to(dtype)))
    torch.testing.assert_close(Swish(learned=True)(POINTS), F.silu(POINTS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learned", [False, True])
def test_swish_with_beta_0_is_exactly_half_of_x(learned: bool, dtype: torch.dtype) -> None:
    assert torch.equal(Swish(beta=0.0, learned=learned)(POINTS.to(dtype)), POINTS.to(dtype) / 2)


def test_swish_tends_to_relu_with_an_error_of_w_of_1_over_e_by_beta() -> None:
    """|x sigmoid(beta x) - relu(x)| = z sigmoid(-z) / beta with z = beta |x|. Its slope in z is 0
    where z sigmoid(z) = 1, that is at z = 1 + w with w e^w = 1/e, and there z sigmoid(-z) = z - 1 =
    w.
    """
    assert pytest.approx(1 / math.e, rel=1e-14) == LAMBERT * math.exp(LAMBERT)
    for beta in (1.0, 4.0, 100.0):
        x = POINTS / beta
        assert (Swish(beta=beta)(x) - F.relu(x)).abs().max().item() == pytest.approx(
            LAMBERT / beta, rel=1e-6
        )
    assert round(LAMBERT, 4) == 0.2785
    worst = torch.tensor([1 + LAMBERT, -1 - LAMBERT], dtype=torch.float64)
    # the second is SiLU's minimum
    torch.testing.assert_close(Swish()(worst), torch.tensor([1.0, -LAMBERT], dtype=torch.float64))


def test_swish_with_beta_1_702_is_within_0_0204_of_gelu() -> None:
    assert 0.0203 < (Swish(beta=1.702)(POINTS) - F.gelu(POINTS)).abs().max() < 0.0204


@pytest.mark.parametrize(("width", "shape"), [(None, (1,)), (5, (5,))])
def test_a_learned_beta_starts_where_it_is_told_and_gets_the_formula_s_gradient(
    width: int | None, shape: tuple[int, ...]
) -> None:
    """dy/dbeta = x^2 s (1 - s), summed over everything that shares the beta."""
    swish = Swish(width, beta=0.7, learned=True)
    assert {name: p.tolist() for name, p in swish.named_parameters()} == {
        "beta": torch.full(shape, 0.7).tolist()
    }
    x = torch.randn(2, 3, 5)
    swish(x).sum().backward()
    s = torch.sigmoid(0.7 * x)
    slope = x**2 * s * (1 - s)
    torch.testing.assert_close(
        swish.beta.grad, slope.sum().reshape(1) if width is None else slope.sum((0, 1))
    )
    assert torch.autograd.gradcheck(swish.double(), (x.double().requires_grad_(),))


def test_a_beta_per_channel_acts_on_its_channel_alone() -> None:
    swish, x = Swish(3, learned=True), torch.randn(4, 3)
    with torch.no_grad():
        swish.beta.copy_(torch.tensor([0.0, 1.0, 5.0]))
    for channel, beta in enumerate((0.0, 1.0, 5.0)):
        torch.testing.assert_close(swish(x)[:, channel], Swish(beta=beta)(x[:, channel]))


def test_a_constant_beta_is_no_parameter() -> None:
    assert not list(Swish(beta=2.0).parameters())


def test_a_learned_beta_is_reset_to_its_start_also_after_the_meta_device() -> None:
    with torch.device("meta"):
        swish = Swish(4, beta=1.5, learned=True)
    assert swish.beta.is_meta
    swish.to_empty(device="cpu").reset_parameters()
    assert swish.beta.tolist() == [1.5] * 4


@pytest.mark.parametrize(
    "swish", [Swish(beta=1.5), Swish(learned=True), Swish(4, learned=True)], ids=repr
)
def test_a_float32_beta_does_not_widen_bfloat16(swish: Swish) -> None:
    x = torch.randn(2, 4, dtype=torch.bfloat16, requires_grad=True)
    y = swish(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in swish.parameters())


@pytest.mark.parametrize(("width", "learned"), [(4, False), (0, True), (-1, True)])
def test_a_width_without_betas_to_learn_is_rejected(width: int, learned: bool) -> None:
    with pytest.raises(ValueError, match=f"width {width}: a width counts the betas to learn"):
        Swish(width, learned=learned)


def test_swish_shows_its_beta() -> None:
    assert [
        repr(s) for s in (Swish(beta=1.702), Swish(learned=True), Swish(8, 0.5, learned=True))
    ] == [
        "Swish(beta=1.702)",
        "Swish(1 learned from 1)",
        "Swish(8 learned from 0.5)",
    ]


def test_a_gate_on_oneself_by_the_identity_is_silu() -> None:
    torch.testing.assert_close(SelfGate(lambda x: x)(POINTS), F.silu(POINTS))
    torch.testing.assert_close(SelfGate(lambda x: 3 * x)(POINTS), Swish(beta=3.0)(POINTS))


def test_a_gate_near_0_blocks_and_near_1_passes() -> None:
    x = torch.randn(100, dtype=torch.float64)
    assert SelfGate(lambda x: torch.full_like(x, -50))(x).abs().max() < 1e-20
    torch.testing.assert_close(SelfGate(lambda x: torch.full_like(x, 50))(x), x, rtol=1e-15, atol=0)


def test_a_module_as_gate_is_trained_with_it() -> None:
    gated = SelfGate(nn.Linear(3, 3)).double()
    assert [name for name, _ in gated.named_parameters()] == ["gate.weight", "gate.bias"]
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    linear = x @ gated.gate.weight.T + gated.gate.bias
    torch.testing.assert_close(gated(x), x / (1 + (-linear).exp()))
    assert torch.autograd.gradcheck(gated, (x,))
