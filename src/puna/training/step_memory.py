"""The estimated memory of a training step on the backend that computes it, with the state of its
optimizers.
"""

from dataclasses import dataclass, replace

import torch

from puna.device import Precision, memory_bytes
from puna.errors import TrainingError
from puna.model.accounting import (
    TrainingMemory,
    block_parameters,
    check_sizes,
    count_parameters,
    training_memory,
)
from puna.model.config import ModelConfig
from puna.native.autograd import LOGIT_BYTES
from puna.training.compute_backend import Backend, choose_backend
from puna.training.distributed import ALONE, Ranks
from puna.training.optimizer import state_bytes
from puna.training.parallel_layout import mesh_shape
from puna.training.recipe import OptimizerRecipe, Recipe


@dataclass(frozen=True)
class ShardedMemory(TrainingMemory):
    """The same of one of several ranks that share the weights (FSDP): its part of weights,
    gradients and moments. gathered: the weights that are whole for a while, with their gradients.
    """

    gathered: int


def sharded_memory(
    memory: TrainingMemory, config: ModelConfig, shards: int, *, half: bool
) -> ShardedMemory:
    """Bytes on each of so many ranks that share the weights of a model, from those of the same step
    on one alone.

    Gathered at once are the embeddings, last norm and output layer in float32 with their gradients,
    and the weights of two blocks, the one that computes and the next, with the gradients of one.
    half: those weights in bfloat16. Arithmetic; no test has measured it.
    """
    blocks = block_parameters(config)
    rest = count_parameters(config).total - blocks
    block = blocks // config.num_layers
    return ShardedMemory(
        weights=memory.weights // shards,
        gradients=memory.gradients // shards,
        optimizer_moments=memory.optimizer_moments // shards,
        activations=memory.activations,
        logits=memory.logits,
        gathered=8 * rest + (2 * (2 if half else 4) + 4) * block,
    )


def step_memory(
    recipe: Recipe, device: torch.device, precision: Precision, shards: int = 1
) -> TrainingMemory:
    """Bytes of a step of a recipe by part: `planned_memory` of its micro-batch on its backend; of
    one of several ranks that share the weights, `sharded_memory` of that.
    """
    half = precision == "bfloat16"
    memory = planned_memory(
        recipe.model,
        recipe.micro_batch_size,
        recipe.context_length,
        choose_backend(recipe, device),
        recipe.optimizer,
        half=half,
        checkpointing=recipe.train.activation_checkpointing,
        device=device.type,
    )
    return memory if shards == 1 else sharded_memory(memory, recipe.model, shards, half=half)


def planned_memory(
    config: ModelConfig,
    batch: int,
    context: int,
    backend: Backend,
    optimizer: OptimizerRecipe,
    *,
    half: bool,
    checkpointing: bool,
    device: str,
) -> TrainingMemory:
    """Bytes of a step by part, on `batch` sequences of `context` tokens. Where the native core
    computes a part and PyTorch another, activations are estimated as on PyTorch, which needs more.

    Keywords as for `training_memory`, and the same is left out. Raises PlanError for sizes that the
    model is not built for. tests/training/test_step_memory.py holds it within 10% of measured
    peaks. Of a large model on few tokens it is too high, by 18% for 42 million parameters on 512
    tokens: not all gradients are there while the activations are.
    """
    memory = (
        training_memory(
            config, batch, context, half=half, checkpointing=checkpointing, device=device
        )
        if backend.isa.startswith("torch") or backend.on_torch
        else native_memory(config, batch, context, half=half)
    )
    return replace(memory, optimizer_moments=state_bytes(config, optimizer))


def reject_too_large(
    recipe: Recipe, device: torch.device, precision: Precision, ranks: Ranks = ALONE
) -> None:
    """Raise TrainingError where a step of the recipe needs more memory than the device has, on a
    CPU of all the ranks of this host. Raises ConfigError as `mesh_shape`.
    """
    shards = mesh_shape(recipe, ranks.size).shards
    together = ranks.local_size if device.type == "cpu" else 1
    needed = together * step_memory(recipe, device, precision, shards).total
    available = memory_bytes(device)
    if available is not None and needed > available:
        of_all = f", for {together} processes together" if together > 1 else ""
        raise TrainingError(
            f"this recipe needs about {needed / 1e9:.1f} GB on {device}{of_all}, which has"
            f" {available / 1e9:.1f} GB: lower train.micro_batch_size, set"
            " train.activation_checkpointing=true, or choose a smaller model"
        )


def native_memory(config: ModelConfig, batch: int, context: int, *, half: bool) -> TrainingMemory:
    """Bytes of a step of a model that the native core computes as a whole, on `batch` sequences of
    `context` tokens; the twin of `training_memory`, with the same things left out and AdamW's two
    moments.

    half: matrix products in bfloat16. tests/training/test_step_memory.py holds the activations
    within 5% of what autograd keeps.
    """
    check_sizes(config, batch, context)
    parameters = count_parameters(config)
    element = 2 if half else 4
    heads = config.num_heads * config.head_width
    packed = heads + 2 * config.num_kv_heads * config.head_width
    # of each half of a layer the stream and its scale in float32, and the normalised input; then
    # queries, keys and values, the heads and their sums; gate and up
    token = 2 * (4 * config.width + 4 + element * config.width)
    token += element * (packed + heads) + 4 * config.num_heads
    token += element * 2 * config.feed_forward_width
    # the matrices of a layer joined for one product, in bfloat16 those that stand alone as well
    joined = config.width * (packed + 2 * config.feed_forward_width)
    alone = config.width * (heads + config.feed_forward_width) if half else 0
    layers = config.num_layers * (batch * context * token + element * (joined + alone))
    # the last norm, and the loss's gradients for the hidden states and for the output matrix
    output = config.vocab_size * config.width
    end = batch * context * (4 * config.width + 4 + element * config.width) + 4 * output
    return TrainingMemory(
        weights=4 * parameters.total,
        gradients=4 * parameters.total,
        optimizer_moments=8 * parameters.total,
        activations=layers + end,
        # and the chunk's part of the gradient, in bfloat16 a copy of the matrix as well
        logits=LOGIT_BYTES + (2 if half else 1) * element * output,
    )
