"""One update of the weights, as the maths has it."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.model.transformer import Transformer
from puna.nn.loss import IGNORE, linear_cross_entropy
from puna.training.optimizer import Optimizers

HiddenStates = Callable[[Int[Tensor, "B T"]], Float[Tensor, "B T D"]]


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
    hidden_states: HiddenStates,
    optimizers: Optimizers,
    micro_batches: Sequence[Int[Tensor, "B T+1"]],
    *,
    factor: float,
    clip_norm: float,
    autocast: Callable[[], AbstractContextManager[object]],
) -> StepResult:
    """One update from the mean loss over all target tokens of `micro_batches`; changes the weights
    and the optimizers' state.

    hidden_states: the model's own method, or its compiled twin. factor: of the learning rate. A
    gradient that is not finite changes nothing and is reported. Usual mistake: averaging each
    micro-batch, which weighs unequal ones equally.
    """
    targets = sum(int((ids[:, 1:] != IGNORE).sum()) for ids in micro_batches)
    total = 0.0
    for ids in micro_batches:
        with autocast():
            hidden = hidden_states(ids[:, :-1])
            loss = linear_cross_entropy(hidden, model.output_weight, ids[:, 1:]) / targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm).item()
    finite = math.isfinite(norm) and math.isfinite(total)
    if finite:
        optimizers.step(factor)
    optimizers.zero_grad()
    return StepResult(total, norm, finite)
