"""What a model takes in memory, part by part: while it trains, and while it writes.

The arithmetic of each part is `puna.model.accounting`'s; here it is laid side by side. What is
counted is live at the moment when most is. What an allocator keeps of what it freed comes on top,
which on a CPU can be as much again (docs/plan.md has figures), and so do the program itself and a
device's libraries. One device is meant: nothing is sharded. tests/plan/test_memory.py holds
training within 10% of a measured peak.
"""

from dataclasses import dataclass, fields
from typing import Literal

from puna.errors import PlanError
from puna.model.accounting import (
    activation_bytes,
    count_parameters,
    kv_bytes_per_token,
    logits_bytes,
    weight_bytes,
)
from puna.model.config import ModelConfig


@dataclass(frozen=True)
class Memory:
    """Bytes by part; `total` is their sum."""

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class TrainingMemory(Memory):
    """Weights and gradients in float32, AdamW's two moments, what the forward pass keeps for the
    backward pass, the loss's chunks.
    """

    weights: int
    gradients: int
    optimizer_moments: int
    activations: int
    logits: int


@dataclass(frozen=True)
class InferenceMemory(Memory):
    """Weights, and keys and values of every position in bfloat16."""

    weights: int
    kv_cache: int


def training_memory(
    config: ModelConfig,
    batch: int,
    context: int,
    *,
    half: bool,
    checkpointing: bool = False,
    device: str = "cpu",
) -> TrainingMemory:
    """One training step of a micro-batch of `batch` sequences of `context` tokens.

    half: matrix products in bfloat16. checkpointing: activations are recomputed, one block at a
    time. device: cpu or cuda, which differ in what attention keeps. The sum is
    `puna.model.accounting.training_memory_bytes`.
    """
    _check(config, batch, context)
    parameters = count_parameters(config).total
    kept = activation_bytes(
        config, batch, context, half=half, checkpointing=checkpointing, device=device
    )
    return TrainingMemory(
        weights=4 * parameters,
        gradients=4 * parameters,
        optimizer_moments=8 * parameters,
        activations=kept,
        logits=logits_bytes(config, batch, context),
    )


def inference_memory(
    config: ModelConfig, batch: int, context: int, *, bits: Literal[4, 16] = 16
) -> InferenceMemory:
    """Writing `batch` continuations at once, each up to `context` tokens with its prompt. bits: of
    a weight in the blocks' matrices.
    """
    _check(config, batch, context)
    return InferenceMemory(
        weights=weight_bytes(config, bits), kv_cache=batch * context * kv_bytes_per_token(config)
    )


def _check(config: ModelConfig, batch: int, context: int) -> None:
    for name, value in (("batch", batch), ("context", context)):
        if value < 1:
            raise PlanError(f"the {name} is {value}, but must be at least 1")
    if context > config.context_length:
        raise PlanError(
            f"the context is {context} tokens, but this model is built for {config.context_length};"
            " give at most that"
        )
