"""Outputs and gradients of the core's autograd functions against the modules of puna.nn in float64;
the modules' own formulas against finite differences.

The core has no float64. Bounds, of the largest entry: 1e-5 in float32, whose unit is 6e-8, after
sums over some hundred terms; 3% in bfloat16, whose unit is 0.4%, after three products.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from closeness import assert_near
from torch import Tensor, nn
from torch.nn import functional as F

from puna.native import autograd
from puna.native.autograd import AttentionHalf, FinalNorm, GatedHalf, LinearCrossEntropy
from puna.native.kernels import Heads, Kernels
from puna.nn.attention import Attention
from puna.nn.feed_forward import GatedFeedForward
from puna.nn.norm import RMSNorm

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "gelu": F.gelu,
}
formats = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "bfloat16"])
first = pytest.mark.parametrize("first", [False, True], ids=["with branch", "first layer"])


def stream(dtype: torch.dtype, first: bool, width: int) -> tuple[Tensor, Tensor | None]:
    """A residual sum and the branch that is still to be added to it."""
    generator = torch.Generator().manual_seed(1)
    residual = torch.randn(2, 21, width, generator=generator)
    branch = torch.randn(2, 21, width, generator=generator).to(dtype)
    return residual.requires_grad_(), None if first else branch.requires_grad_()


def compare(
    outputs: Sequence[Tensor],
    twins: Sequence[Tensor],
    inputs: Sequence[Tensor],
    wide: Sequence[Tensor],
    bound: float,
) -> None:
    """Outputs, and the gradients of one weighted sum over all of them."""
    generator = torch.Generator().manual_seed(2)
    pulls = [torch.randn(twin.shape, generator=generator) for twin in twins]
    sum((out * pull).sum() for out, pull in zip(outputs, pulls, strict=True)).backward()
    sum((twin * pull).sum() for twin, pull in zip(twins, pulls, strict=True)).backward()
    for got, twin in zip(outputs, twins, strict=True):
        assert_near(got, twin, bound)
    for given, twin in zip(inputs, wide, strict=True):
        assert given.grad is not None
        assert given.grad.dtype == given.dtype
        assert_near(given.grad, twin.grad, bound)


def widened(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@formats
@first
@pytest.mark.parametrize("counts", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("turned", [0, 3, 5])
def test_attention_half(
    kernels: Kernels, counts: tuple[int, int], turned: int, first: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm, layer = RMSNorm(23), Attention(23, *counts, 10)
    nn.init.normal_(norm.weight, 1.0, 0.2)
    angles = torch.rand(21, turned)
    rotary = (angles.cos(), angles.sin()) if turned else None
    weights = [norm.weight, *(p.weight for p in (layer.q_proj, layer.k_proj))]
    weights += [layer.v_proj.weight, layer.o_proj.weight]
    residual, branch = stream(dtype, first, 23)
    outputs = AttentionHalf.apply(
        kernels, Heads(*counts, 10), rotary, norm.eps, dtype, residual, branch, *weights
    )
    inputs = [residual, *([] if branch is None else [branch])]
    gradients = [*inputs, *weights]
    twin_inputs = widened(inputs)
    norm_twin, layer_twin = RMSNorm(23).double(), Attention(23, *counts, 10).double()
    norm_twin.load_state_dict(norm.state_dict())
    layer_twin.load_state_dict(layer.state_dict())
    x = sum(twin_inputs[1:], twin_inputs[0])
    wide_rotary = tuple(table.double()[None, None] for table in rotary) if rotary else None
    twins = (x, layer_twin(norm_twin(x), wide_rotary))
    projections = [layer_twin.q_proj, layer_twin.k_proj, layer_twin.v_proj, layer_twin.o_proj]
    wide = [*twin_inputs, norm_twin.weight, *(p.weight for p in projections)]
    compare(outputs, twins, gradients, wide, BOUNDS[dtype])


@first
@pytest.mark.parametrize(
    ("activation", "dtype"),
    # not ReLU in bfloat16: beside its kink rounding decides the slope
    [pair for pair in product(ACTIVATIONS, BOUNDS) if pair != ("relu", torch.bfloat16)],
)
def test_gated_half(kernels: Kernels, activation: str, first: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, layer = RMSNorm(23), GatedFeedForward(23, 41, ACTIVATIONS[activation])
    nn.init.normal_(norm.weight, 1.0, 0.2)
    weights = [norm.weight, layer.gate_proj.weight, layer.up_proj.weight, layer.down_proj.weight]
    residual, branch = stream(dtype, first, 23)
    outputs = GatedHalf.apply(kernels, activation, norm.eps, dtype, residual, branch, *weights)
    inputs = [residual, *([] if branch is None else [branch])]
    twin_inputs = widened(inputs)
    norm_twin = RMSNorm(23).double()
    layer_twin = GatedFeedForward(23, 41, ACTIVATIONS[activation]).double()
    norm_twin.load_state_dict(norm.state_dict())
    layer_twin.load_state_dict(layer.state_dict())
    x = sum(twin_inputs[1:], twin_inputs[0])
    twins = (x, layer_twin(norm_twin(x)))
    projections = [layer_twin.gate_proj, layer_twin.up_proj, layer_twin.down_proj]
    wide = [*twin_inputs, norm_twin.weight, *(p.weight for p in projections)]
    compare(outputs, twins, [*inputs, *weights], wide, BOUNDS[dtype])


@formats
def test_final_norm(kernels: Kernels, dtype: torch.dtype) -> None:
    residual, branch = stream(dtype, False, 23)
    assert branch is not None
    weight = (1 + torch.arange(23) / 50).requires_grad_()
    out = FinalNorm.apply(kernels, 1e-5, residual, branch, weight)
    assert out.dtype == dtype
    wide = widened([residual, branch, weight])
    norm = RMSNorm(23).double()
    norm.weight = nn.Parameter(wide[2])
    twin = norm(wide[0] + wide[1])
    compare([out], [twin], [residual, branch, weight], [*wide[:2], norm.weight], BOUNDS[dtype])


@formats
@pytest.mark.parametrize("chunks", [1, 3])
def test_linear_cross_entropy(
    kernels: Kernels, chunks: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, width, entries = 150, 23, 37
    if chunks > 1:  # of 64 rows, the fewest
        monkeypatch.setattr(autograd, "LOGIT_BYTES", 1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(entries, width, generator=generator).requires_grad_()
    targets = torch.randint(0, entries, (rows,), generator=generator)
    targets[::7] = -100
    loss = LinearCrossEntropy.apply(kernels, hidden, weight, targets)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    wide = widened([hidden, weight])
    twin = F.cross_entropy(wide[0] @ wide[1].t(), targets, reduction="sum")
    compare([loss], [twin], [hidden, weight], wide, BOUNDS[dtype])


def test_a_gradient_without_memory_of_its_own_is_taken(kernels: Kernels) -> None:
    """What `sum` passes back is one number with strides of 0."""
    residual, branch = stream(torch.float32, False, 6)
    weights = [torch.ones(6), torch.ones(8, 6), torch.ones(8, 6), torch.ones(6, 8)]
    x, out = GatedHalf.apply(kernels, "silu", 1e-5, torch.float32, residual, branch, *weights)
    (x.sum() + out.sum()).backward()
    assert residual.grad is not None
    assert residual.grad.isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_twins_gradients_are_those_of_finite_differences(activation: str) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(6).double()
    attention = Attention(6, 2, 1, 4).double()
    gated = GatedFeedForward(6, 5, ACTIVATIONS[activation]).double()
    angles = torch.rand(1, 1, 3, 2, dtype=torch.float64)

    def layer(x: Tensor, *_: Any) -> Tensor:
        x = x + attention(norm(x), (angles.cos(), angles.sin()))
        return x + gated(norm(x))

    x = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    parameters = [*norm.parameters(), *attention.parameters(), *gated.parameters()]
    assert torch.autograd.gradcheck(layer, (x, *parameters))
