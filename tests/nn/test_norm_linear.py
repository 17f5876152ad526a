"""NormalizedLinear: the table of invariances, one test a column, and what it means for the size of
a step.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from puna.nn import CenterNorm, LayerNorm, NormalizedLinear, PartialRMSNorm, RMSNorm, ScaleNorm

IN, OUT = 5, 8

few = settings(max_examples=20)  # of the same formula, for each norm

RE_SCALING = {
    "layer": lambda: LayerNorm(OUT, 0.0, bias=False),
    "rms": lambda: RMSNorm(OUT, 0.0),
    "rms-eps-outside": lambda: RMSNorm(OUT, 0.0, eps_place="outside"),
    "partial": lambda: PartialRMSNorm(OUT, 0.5, 0.0),
    "scale": lambda: ScaleNorm(OUT, 0.0),
}
RE_CENTERING = {"layer": RE_SCALING["layer"], "center": lambda: CenterNorm(OUT)}
ALL = RE_SCALING | RE_CENTERING


def layer_with(norm: str, seed: int = 0) -> NormalizedLinear:
    """A layer in float64 with every parameter random."""
    torch.manual_seed(seed)
    layer = NormalizedLinear(IN, OUT, ALL[norm](), torch.tanh).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def inputs(count: int = 4) -> Tensor:
    return torch.randn(count, IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def with_weight(layer: NormalizedLinear, weight: Tensor, x: Tensor) -> Tensor:
    return torch.func.functional_call(layer, {"linear.weight": weight}, (x,))


def assert_same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def assert_differs(first: Tensor, second: Tensor) -> None:
    assert (first - second).abs().max() > 1e-2


def test_is_its_formula() -> None:
    layer, x = layer_with("rms"), inputs()
    a = x @ layer.linear.weight.T
    normalised = a / a.square().mean(-1, keepdim=True).sqrt() * layer.norm.weight
    assert_same(layer(x), torch.tanh(normalised + layer.bias))


def test_without_an_activation_the_sums_come_out() -> None:
    layer = NormalizedLinear(IN, OUT, RMSNorm(OUT))
    x = torch.randn(3, IN)
    assert torch.equal(layer(x), layer.norm(layer.linear(x)))


def test_the_bias_starts_as_zeros_and_is_the_only_one() -> None:
    layer = NormalizedLinear(IN, OUT, RMSNorm(OUT))
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes == {"bias": (OUT,), "linear.weight": (OUT, IN), "norm.weight": (OUT,)}
    assert torch.equal(layer.bias, torch.zeros(OUT))


def test_an_activation_with_parameters_is_part_of_the_layer() -> None:
    layer = NormalizedLinear(IN, OUT, RMSNorm(OUT), nn.PReLU())
    assert "activation.weight" in layer.state_dict()


@pytest.mark.parametrize("norm", RE_SCALING)
@few
@given(c=st.floats(1e-3, 1e3), seed=st.integers(0, 3))
def test_re_scaling_the_weight_matrix_changes_nothing(norm: str, c: float, seed: int) -> None:
    layer, x = layer_with(norm, seed), inputs()
    assert_same(with_weight(layer, c * layer.linear.weight, x), layer(x))


def test_without_re_scaling_in_the_norm_it_changes_the_output() -> None:
    layer, x = layer_with("center"), inputs()
    assert_differs(with_weight(layer, 3 * layer.linear.weight, x), layer(x))


@pytest.mark.parametrize("norm", RE_SCALING)
@few
@given(c=st.floats(1e-3, 1e3))
def test_the_gradient_of_a_matrix_c_times_as_large_is_c_times_as_small(norm: str, c: float) -> None:
    layer, x = layer_with(norm), inputs()
    target = torch.linspace(-1, 1, OUT, dtype=torch.float64)

    def gradient(weight: Tensor) -> Tensor:
        weight = weight.detach().requires_grad_()
        (result,) = torch.autograd.grad(
            (with_weight(layer, weight, x) - target).square().sum(), weight
        )
        return result

    torch.testing.assert_close(
        c * gradient(c * layer.linear.weight), gradient(layer.linear.weight), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("norm", RE_SCALING)
def test_the_gradient_is_at_right_angles_to_the_matrix(norm: str) -> None:
    """What scale invariance means for training: a step never shrinks the matrix, to first order it
    only turns it.
    """
    layer = layer_with(norm)
    layer(inputs()).square().sum().backward()
    along = (layer.linear.weight.grad * layer.linear.weight).sum()
    assert along.abs() < 1e-10 * layer.linear.weight.grad.norm() * layer.linear.weight.norm()


@pytest.mark.parametrize("norm", RE_CENTERING)
@few
@given(v=st.lists(st.floats(-10, 10), min_size=IN, max_size=IN))
def test_re_centering_the_weight_matrix_changes_nothing_where_the_norm_centres(
    norm: str, v: list[float]
) -> None:
    """W + 1 v^T adds v.x to every summed input of a row."""
    layer, x = layer_with(norm), inputs()
    assert_same(
        with_weight(layer, layer.linear.weight + torch.tensor(v, dtype=torch.float64), x), layer(x)
    )


@pytest.mark.parametrize("norm", sorted(RE_SCALING.keys() - RE_CENTERING.keys()))
def test_re_centering_the_weight_matrix_changes_the_output_of_rms_norms(norm: str) -> None:
    layer, x = layer_with(norm), inputs()
    assert_differs(
        with_weight(layer, layer.linear.weight + torch.ones(IN, dtype=torch.float64), x), layer(x)
    )


@pytest.mark.parametrize("norm", RE_SCALING)
@few
@given(c=st.floats(1e-3, 1e3))
def test_re_scaling_the_inputs_changes_nothing(norm: str, c: float) -> None:
    layer, x = layer_with(norm), inputs()
    assert_same(layer(c * x), layer(x))


@pytest.mark.parametrize("norm", RE_SCALING)
def test_re_scaling_each_input_by_its_own_factor_changes_nothing(norm: str) -> None:
    layer, x = layer_with(norm), inputs()
    assert_same(
        layer(torch.tensor([[0.01], [0.5], [3.0], [200.0]], dtype=torch.float64) * x), layer(x)
    )


@pytest.mark.parametrize("norm", RE_SCALING)
def test_re_scaling_one_row_of_the_matrix_changes_the_output(norm: str) -> None:
    layer, x = layer_with(norm), inputs()
    weight = layer.linear.weight.detach().clone()
    weight[0] *= 3
    assert_differs(with_weight(layer, weight, x), layer(x))


@pytest.mark.parametrize("norm", ALL)
def test_shifting_the_inputs_changes_the_output(norm: str) -> None:
    layer, x = layer_with(norm), inputs()
    assert_differs(layer(x + 1), layer(x))


def test_a_bias_before_the_norm_would_break_the_invariance() -> None:
    """The usual mistake, so that the tests above are seen to depend on where the bias stands."""
    layer, x = layer_with("rms"), inputs()

    def wrong(weight: Tensor) -> Tensor:
        return layer.norm(F.linear(x, weight, layer.bias))

    assert_differs(wrong(3 * layer.linear.weight), wrong(layer.linear.weight))


def test_eps_limits_the_invariance_to_sums_larger_than_it() -> None:
    layer = NormalizedLinear(IN, OUT, RMSNorm(OUT, 1e-5)).double()
    x = inputs()
    torch.testing.assert_close(
        with_weight(layer, 1e3 * layer.linear.weight, x), layer(x), rtol=1e-3, atol=1e-3
    )
    assert_differs(with_weight(layer, 1e-3 * layer.linear.weight, x), layer(x))


def test_gradients_are_those_of_finite_differences() -> None:
    layer = layer_with("rms")
    x = inputs().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))


def test_bfloat16_stays_bfloat16() -> None:
    layer = NormalizedLinear(16, 32, RMSNorm(32), F.silu)
    x = torch.randn(4, 16).bfloat16()
    exact = layer.double()(x.double())
    result = layer.bfloat16()(x)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), exact, rtol=0.05, atol=0.05)
