"""Cross entropy of the next token, summed (not averaged) over the valid targets.

The sum is what adds up over micro-batches and ranks; who wants a mean divides by the number of
targets of the whole step. `linear_cross_entropy` never holds the logits of a whole batch: at 32,000
entries they are the largest tensor of a small model.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # a target that does not count, as in torch.nn.functional.cross_entropy
CHUNK = 1024  # rows of logits held at once


def cross_entropy_sum(
    logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]
) -> Float[Tensor, ""]:
    """Sum over valid targets of -log softmax(logits)[target], in nats; arithmetic and result in
    float32.
    """
    return F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def linear_cross_entropy(
    hidden: Float[Tensor, "*B D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*B"]
) -> Float[Tensor, ""]:
    """`cross_entropy_sum(hidden @ weight.T, targets)` in chunks of rows, with the gradients
    computed on the way forward.

    Holds CHUNK x V logits instead of (B T) x V. Products follow autocast; the softmax and the sums
    are float32. Usual mistake: averaging each chunk, which weighs a chunk with few valid targets
    like a full one.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden.flatten(0, -2), weight, targets.flatten())  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        for start in range(0, hidden.shape[0], CHUNK):
            rows, wanted = hidden[start : start + CHUNK], targets[start : start + CHUNK]
            # An index of 0 in place of IGNORE keeps the gather legal; `valid` takes its term out
            valid = wanted != IGNORE
            wanted = wanted.where(valid, 0).unsqueeze(1)
            log_probabilities = F.linear(rows, weight).float().log_softmax(-1)
            total -= (log_probabilities.gather(1, wanted).squeeze(1) * valid).sum()
            # d loss / d logits = softmax - one_hot(target); rows whose target does not count are
            # zeroed where they are narrow
            grad = log_probabilities.exp_()
            grad.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=grad.dtype))
            # Products in the dtype of the hidden states, sums over chunks in that of the weight
            grad = grad.to(rows.dtype)
            counts = valid.unsqueeze(1).to(rows.dtype)
            grad_hidden[start : start + CHUNK] = (grad @ weight) * counts
            grad_weight += grad.t() @ (rows * counts)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # The loss is a scalar, so its incoming gradient only scales what `forward` computed
        return grad_hidden * gradients[0], grad_weight * gradients[0], None
