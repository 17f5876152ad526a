"""The halves of a pre-norm layer, the final norm and the loss as autograd functions: matrix
products by PyTorch, all between them by the native core.

The residual stream is passed on as two tensors, the float32 sum so far and the branch that is still
to be added, because the norm that reads the sum adds it up in the same pass. Matrix products are
in the dtype of the branch; weights and their gradients are float32. Each function keeps what its
backward pass needs and makes the rest anew: gate outputs, and the turned queries and keys.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.native.kernels import Heads, Kernels

LOGIT_BYTES = 2**23  # of the logits held at once: they stay in the cache from product to product

Rotary = tuple[Float[Tensor, "T R"], Float[Tensor, "T R"]]


class AttentionHalf(torch.autograd.Function):
    """x = residual + branch; branch = attention(norm(x)) W_o, the first half of a layer."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        heads: Heads,
        rotary: Rotary | None,
        eps: float,
        dtype: torch.dtype,
        residual: Float[Tensor, "B T D"],
        branch: Float[Tensor, "B T D"] | None,
        norm: Float[Tensor, "D"],
        q: Float[Tensor, "HC D"],
        k: Float[Tensor, "KC D"],
        v: Float[Tensor, "KC D"],
        o: Float[Tensor, "D HC"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        x, y, scale = kernels.norm(residual, branch, norm, eps, dtype)
        into, back = _joined((q, k, v), dtype), o.to(dtype)
        qkv = y @ into.t()
        out, lse = kernels.attention(qkv, heads, rotary)
        ctx.kernels, ctx.heads, ctx.rotary, ctx.first = kernels, heads, rotary, branch is None
        ctx.save_for_backward(x, norm, scale, y, qkv, out, lse, into, back)
        return x, out @ back.t()

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, scale, y, qkv, out, lse, into, back = ctx.saved_tensors
        grad_out, grad_o = _product_backward(grad_branch.contiguous(), out, back)
        grad_qkv = ctx.kernels.attention_backward(qkv, ctx.heads, ctx.rotary, out, lse, grad_out)
        grad_y, grad_into = _product_backward(grad_qkv, y, into)
        heads = ctx.heads
        sizes = [heads.width * count for count in (heads.heads, heads.kv_heads, heads.kv_heads)]
        residual, branch, weight = ctx.kernels.norm_backward(
            x, norm, scale, grad_y, grad_x.contiguous(), with_branch=not ctx.first
        )
        return (
            *(None,) * 5,
            residual,
            branch,
            weight,
            *torch.split(grad_into, sizes),
            grad_o,
        )


class GatedHalf(torch.autograd.Function):
    """x = residual + branch; branch = (act(norm(x) W_gate) * norm(x) W_up) W_down, the second
    half.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        activation: str,
        eps: float,
        dtype: torch.dtype,
        residual: Float[Tensor, "B T D"],
        branch: Float[Tensor, "B T D"] | None,
        norm: Float[Tensor, "D"],
        gate: Float[Tensor, "F D"],
        up: Float[Tensor, "F D"],
        down: Float[Tensor, "D F"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        x, y, scale = kernels.norm(residual, branch, norm, eps, dtype)
        into, back = _joined((gate, up), dtype), down.to(dtype)
        gate_up = y @ into.t()
        ctx.kernels, ctx.activation, ctx.first = kernels, activation, branch is None
        ctx.save_for_backward(x, norm, scale, y, gate_up, into, back)
        return x, kernels.gate(gate_up, activation) @ back.t()

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, scale, y, gate_up, into, back = ctx.saved_tensors
        grad_branch = grad_branch.contiguous()
        grad_gate_up, inner = ctx.kernels.gate_backward(gate_up, grad_branch @ back, ctx.activation)
        grad_down = _weight_gradient(grad_branch, inner)
        grad_y, grad_into = _product_backward(grad_gate_up, y, into)
        residual, branch, weight = ctx.kernels.norm_backward(
            x, norm, scale, grad_y, grad_x.contiguous(), with_branch=not ctx.first
        )
        return (*(None,) * 4, residual, branch, weight, *grad_into.chunk(2), grad_down)


class FinalNorm(torch.autograd.Function):
    """norm(residual + branch), in the dtype of the branch: what the output layer takes."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        eps: float,
        residual: Float[Tensor, "B T D"],
        branch: Float[Tensor, "B T D"],
        norm: Float[Tensor, "D"],
    ) -> Float[Tensor, "B T D"]:
        x, y, scale = kernels.norm(residual, branch, norm, eps, branch.dtype)
        ctx.kernels = kernels
        ctx.save_for_backward(x, norm, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, scale = ctx.saved_tensors
        grads = ctx.kernels.norm_backward(
            x, norm, scale, grad_y.contiguous(), None, with_branch=True
        )
        return (None, None, *grads)


class LinearCrossEntropy(torch.autograd.Function):
    """The sum over valid targets of -log softmax(hidden W^T)[target], in nats, float32, with the
    gradients computed on the way forward; the twin of `linear_cross_entropy` of puna/nn/loss.py.

    Holds `LOGIT_BYTES` of logits at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        hidden: Float[Tensor, "*B D"],
        weight: Float[Tensor, "V D"],
        targets: Int[Tensor, "*B"],
    ) -> Float[Tensor, ""]:
        rows, wanted = hidden.flatten(0, -2), targets.flatten().contiguous()
        output = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(rows)
        grad_weight = torch.zeros_like(weight)
        total = 0.0
        chunk = max(64, LOGIT_BYTES // (len(weight) * hidden.element_size()))
        held = torch.empty((min(chunk, len(rows)), len(weight)), dtype=hidden.dtype)
        for begin in range(0, len(rows), chunk):
            some = rows[begin : begin + chunk]
            logits = held[: len(some)]
            torch.mm(some, output.t(), out=logits)
            total += float(kernels.cross_entropy(logits, wanted[begin : begin + chunk]).sum())
            torch.mm(logits, output, out=grad_hidden[begin : begin + chunk])
            grad_weight += logits.t() @ some
        ctx.save_for_backward(grad_hidden.view_as(hidden), grad_weight)
        return torch.tensor(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return None, grad_hidden * grad, grad_weight * grad, None


def _joined(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The rows of all in one matrix of `dtype`, so that one product does for several."""
    return torch.cat([weight.to(dtype) for weight in weights])


def _weight_gradient(
    grad: Float[Tensor, "B T O"], x: Float[Tensor, "B T I"]
) -> Float[Tensor, "O I"]:
    return (grad.flatten(0, -2).t() @ x.flatten(0, -2)).float()


def _product_backward(
    grad: Float[Tensor, "B T O"], x: Float[Tensor, "B T I"], weight: Float[Tensor, "O I"]
) -> tuple[Float[Tensor, "B T I"], Float[Tensor, "O I"]]:
    """The gradients of x and of the float32 weight, where x weight^T has the gradient `grad`."""
    return grad @ weight, _weight_gradient(grad, x)
