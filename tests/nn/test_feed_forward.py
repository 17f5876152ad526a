"""SwiGLU against an einsum and its closed-form gradient; its width against every published LLaMA."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puna.nn import SwiGLU, swiglu_hidden_size


@pytest.mark.parametrize(
    ("width", "multiple_of", "multiplier", "published"),
    [
        (4096, 256, 1.0, 11008),  # LLaMA 7B
        (5120, 256, 1.0, 13824),  # 13B
        (6656, 256, 1.0, 17920),  # 33B
        (8192, 256, 1.0, 22016),  # 65B: 21845.33 before rounding
        (8192, 4096, 1.3, 28672),  # Llama 2 70B, 3 70B
        (4096, 1024, 1.3, 14336),  # Llama 3 8B
        (16384, 4096, 1.2, 53248),  # Llama 3.1 405B
        (2048, 256, 1.5, 8192),  # Llama 3.2 1B
        (3072, 256, 1.0, 8192),  # Llama 3.2 3B: 8/3 of it is whole, nothing to round
    ],
)
def test_published_widths(width: int, multiple_of: int, multiplier: float, published: int) -> None:
    assert swiglu_hidden_size(width, multiple_of, multiplier) == published


@given(width=st.integers(1, 20000), multiple_of=st.integers(1, 4096))
def test_rounds_up_by_less_than_one_multiple(width: int, multiple_of: int) -> None:
    hidden = swiglu_hidden_size(width, multiple_of)
    assert hidden % multiple_of == 0
    assert 0 <= hidden - 8 * width // 3 < multiple_of


def test_parameters_match_the_ungated_layer_within_the_rounding() -> None:
    """Three D x F matrices against two D x 4D ones."""
    for width in (512, 4096, 8192):
        gated, ungated = 3 * width * swiglu_hidden_size(width), 2 * width * 4 * width
        assert 0 <= gated - ungated <= 3 * width * 256


def reference(x: Tensor, layer: SwiGLU) -> Tensor:
    gate = torch.einsum("btd,fd->btf", x, layer.gate_proj.weight)
    up = torch.einsum("btd,fd->btf", x, layer.up_proj.weight)
    return torch.einsum("btf,df->btd", gate / (1 + (-gate).exp()) * up, layer.down_proj.weight)


def test_is_its_formula() -> None:
    layer, x = SwiGLU(12, 20).double(), torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(x, layer), rtol=1e-12, atol=1e-12)


def test_gradients_equal_the_formula_s() -> None:
    layer, x = SwiGLU(6, 10).double(), torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad(layer(x).square().sum(), inputs)
    for mine, expected in zip(ours, torch.autograd.grad(reference(x, layer).square().sum(), inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (x,))


def test_the_gate_is_what_is_activated() -> None:
    """A gate of 0 blocks whatever the up branch says; an up branch of 0 does too, but only the gate saturates: silu(-z) -> 0."""
    layer = SwiGLU(1, 1)
    with torch.no_grad():
        for projection in (layer.gate_proj, layer.up_proj, layer.down_proj):
            projection.weight.fill_(1.0)
        layer.gate_proj.weight.fill_(-50.0)
    assert layer(torch.ones(1, 1, 1)).abs() < 1e-15
    with torch.no_grad():
        layer.gate_proj.weight.fill_(1.0)
        layer.up_proj.weight.fill_(-50.0)
    torch.testing.assert_close(layer(torch.ones(1, 1, 1)), torch.tensor([[[-50 * 0.7310586]]]))


def test_has_no_biases_and_hugging_face_s_names() -> None:
    assert {name: tuple(p.shape) for name, p in SwiGLU(4, 7).named_parameters()} == {
        "gate_proj.weight": (7, 4),
        "up_proj.weight": (7, 4),
        "down_proj.weight": (4, 7),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert SwiGLU(4, 8).to(dtype)(torch.randn(2, 4, dtype=dtype)).dtype == dtype
