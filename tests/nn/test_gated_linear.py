"""Gated linear units against einsum and `F.glu`, and the convolution's blindness to what comes
later.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from puna.nn import CausalGatedConvolution, GatedLinear

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("bias", [True, False])
def test_linear_unit_is_its_formula_with_the_value_in_the_first_half(bias: bool) -> None:
    layer, x = GatedLinear(5, 3, bias=bias).double(), torch.randn(2, 4, 5, dtype=torch.float64)
    w, v = layer.proj.weight[:3], layer.proj.weight[3:]
    b, c = (layer.proj.bias[:3], layer.proj.bias[3:]) if bias else (0.0, 0.0)
    value, gate = torch.einsum("btd,od->bto", x, w) + b, torch.einsum("btd,od->bto", x, v) + c
    torch.testing.assert_close(layer(x), value / (1 + (-gate).exp()))


def test_linear_unit_equals_glu_of_the_joined_projection() -> None:
    layer, x = GatedLinear(5, 3), torch.randn(7, 5)
    w, v = (torch.nn.Linear(5, 3) for _ in range(2))
    layer.load_state_dict(
        {"proj.weight": torch.cat((w.weight, v.weight)), "proj.bias": torch.cat((w.bias, v.bias))}
    )
    torch.testing.assert_close(layer(x), F.glu(torch.cat((w(x), v(x)), dim=-1), dim=-1))
    torch.testing.assert_close(layer(x), w(x) * torch.sigmoid(v(x)))


def test_zero_biases_equal_the_bias_free_unit() -> None:
    with_bias, without, x = GatedLinear(5, 3), GatedLinear(5, 3, bias=False), torch.randn(7, 5)
    without.load_state_dict({"proj.weight": with_bias.proj.weight})
    torch.nn.init.zeros_(with_bias.proj.bias)
    assert torch.equal(with_bias(x), without(x))


def test_behind_an_open_gate_the_gradient_is_the_linear_branch_s_however_large_the_value() -> None:
    """No second nonlinearity squashes the value, as the tanh of an LSTM's gate would."""
    layer, x = GatedLinear(4, 4).double(), 1e6 * torch.randn(3, 4, dtype=torch.float64)
    x.requires_grad_()
    with torch.no_grad():
        layer.proj.weight[4:] = 0.0
        layer.proj.bias[4:] = 60.0
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient, layer.proj.weight[:4].sum(0).expand(3, 4))


def convolution_by_hand(layer: CausalGatedConvolution, x: Tensor) -> Tensor:
    """Sum over the taps, an input before the first being zero."""
    kernel, out = layer.conv.weight.shape[2], layer.conv.weight.shape[0] // 2
    total = torch.zeros(*x.shape[:2], 2 * out, dtype=x.dtype)
    for t in range(x.shape[1]):
        for age in range(min(kernel, t + 1)):
            total[:, t] += x[:, t - age] @ layer.conv.weight[:, :, kernel - 1 - age].T
    if layer.conv.bias is not None:
        total = total + layer.conv.bias
    return total[..., :out] / (1 + (-total[..., out:]).exp())


@given(kernel=st.integers(1, 5), time=st.integers(1, 6), bias=st.booleans())
def test_convolution_is_its_formula(kernel: int, time: int, bias: bool) -> None:
    layer, x = (
        CausalGatedConvolution(4, 3, kernel, bias=bias).double(),
        torch.randn(2, time, 4, dtype=torch.float64),
    )
    torch.testing.assert_close(layer(x), convolution_by_hand(layer, x))


@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_convolution_sees_the_last_kernel_inputs_and_none_later(kernel: int) -> None:
    """The gradient of y_t with respect to x_s is 0 for s > t, and for s < t - kernel + 1."""
    layer, x = CausalGatedConvolution(3, 3, kernel), torch.randn(1, 6, 3, requires_grad=True)
    for t in range(6):
        (gradient,) = torch.autograd.grad(layer(x)[0, t].sum(), x)
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.tolist() == [t - kernel < s <= t for s in range(6)]


@pytest.mark.parametrize("bias", [True, False])
def test_convolution_with_a_kernel_of_1_is_the_linear_unit(bias: bool) -> None:
    convolution, linear, x = (
        CausalGatedConvolution(4, 3, 1, bias=bias),
        GatedLinear(4, 3, bias=bias),
        torch.randn(2, 5, 4),
    )
    convolution.load_state_dict(
        {
            name.replace("proj", "conv"): v.unsqueeze(-1) if v.ndim == 2 else v
            for name, v in linear.state_dict().items()
        }
    )
    torch.testing.assert_close(convolution(x), linear(x))


@pytest.mark.parametrize("kernel", [0, -2])
def test_a_kernel_below_1_is_rejected(kernel: int) -> None:
    with pytest.raises(ValueError, match=rf"kernel {kernel} is below 1, .* use 1 or more"):
        CausalGatedConvolution(4, 4, kernel)


def test_gradients_are_the_derivatives() -> None:
    x = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GatedLinear(2, 2).double(), (x,))
    assert torch.autograd.gradcheck(CausalGatedConvolution(2, 2, 2).double(), (x,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layer", [GatedLinear(8, 6), CausalGatedConvolution(8, 6, 3)], ids=["linear", "convolution"]
)
def test_keeps_the_dtype_and_stays_near_float64(layer: torch.nn.Module, dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 8)
    y = layer.to(dtype)(x.to(dtype))
    assert (y.dtype, y.shape) == (dtype, (2, 5, 6))
    exact = layer.double()(x.to(dtype).double())
    torch.testing.assert_close(
        y.double(),
        exact,
        rtol=0,
        atol={torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype],
    )
    layer.float()


def test_built_on_the_meta_device_they_have_no_memory() -> None:
    with torch.device("meta"):
        layers = [GatedLinear(8, 6), CausalGatedConvolution(8, 6, 3)]
    assert all(p.is_meta for layer in layers for p in layer.parameters())
