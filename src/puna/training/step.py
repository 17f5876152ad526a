"""One update of the weights, as the maths has it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.model.transformer import Transformer
from puna.nn.loss import IGNORE
from puna.training.distributed import ALONE, Ranks, whole
from puna.training.optimizer import Optimizers

SummedLoss = Callable[[Int[Tensor, "B T+1"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class StepResult:
    """loss: nats per target token, before the update. gradient_norm: before clipping. applied:
    False where it was not finite.
    """

    loss: float
    gradient_norm: float
    applied: bool


def train_step(
    model: Transformer,
    summed_loss: SummedLoss,
    optimizers: Optimizers,
    micro_batches: Sequence[Int[Tensor, "B T+1"]],
    *,
    factor: float,
    clip_norm: float,
    ranks: Ranks = ALONE,
) -> StepResult:
    """One update from the mean loss over all target tokens of all ranks' `micro_batches`; changes
    the weights and the optimizers' state.

    summed_loss: over the valid targets of a micro-batch, as `batch_loss` makes it. factor: of the
    learning rate. ranks: that make this step together, each with as many micro-batches; left out,
    this process alone. A gradient that is not finite changes nothing and is reported. Usual
    mistake: averaging each micro-batch, or each rank's part, which weighs unequal ones equally.
    """
    (targets,) = ranks.sum(sum(int((ids[:, 1:] != IGNORE).sum()) for ids in micro_batches))
    total = 0.0
    for ids in micro_batches:
        loss = summed_loss(ids) / targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    (total,) = ranks.sum(total)
    ranks.sum_gradients(model)
    norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)).item()
    finite = math.isfinite(norm) and math.isfinite(total)
    if finite:
        optimizers.step(factor)
    optimizers.zero_grad()
    return StepResult(total, norm, finite)
