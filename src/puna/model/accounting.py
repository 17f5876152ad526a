"""Arithmetic about a model before it takes memory: parameters, FLOPs, bytes of cache and of memory.

All figures follow from `ModelConfig` alone. FLOPs count a multiply-add as two. Estimates say what
they leave out.

Memory is what is live at the moment when most is, on one device. What an allocator keeps of what it
freed comes on top, which on a CPU can be as much again (docs/plan.md has figures), and so do the
program itself and a device's libraries. tests/model/test_memory.py holds training within 10% of a
measured peak.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import nn

from puna.errors import PlanError
from puna.model.builders import build_added_positions, build_block, build_norm
from puna.model.config import ModelConfig
from puna.model.parts import BIASED, UNGATED
from puna.nn.attention import BLOCK, trains_in_blocks
from puna.nn.loss import CHUNK
from puna.nn.quantized import quantize_linears


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters by part; `total` is their sum, with a tied output layer counted
    once.
    """

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    output: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.attention + self.feed_forward + self.norms + self.output


def count_parameters(config: ModelConfig) -> Parameters:
    """Parameters of every part of the model, by building one block on the meta device, where it
    costs no memory.
    """
    with torch.device("meta"):
        block = build_block(config)
        final = build_norm(config) if block.final_norm else nn.Identity()
        positions = build_added_positions(config) or nn.Identity()
    # What is neither attention nor feed-forward in a block is its norms
    attention, feed_forward = _size(block.self_attn), _size(block.mlp)
    table = config.vocab_size * config.width
    return Parameters(
        embedding=table + _size(positions),
        attention=config.num_layers * attention,
        feed_forward=config.num_layers * feed_forward,
        norms=config.num_layers * (_size(block) - attention - feed_forward) + _size(final),
        output=0 if config.tie_embeddings else table,
    )


def block_parameters(config: ModelConfig) -> int:
    """Parameters of all blocks together, norms included."""
    with torch.device("meta"):
        return config.num_layers * _size(build_block(config))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrices(config: ModelConfig) -> int:
    """Entries of the matrices that every token is multiplied with: those of the blocks and the
    output layer, tied or not.
    """
    with torch.device("meta"):
        block = build_block(config)
    inside = sum(
        module.weight.numel()
        for module in block.modules()
        if isinstance(module, nn.Linear | nn.Conv1d)
    )
    return config.num_layers * inside + config.vocab_size * config.width


def forward_flops_per_token(config: ModelConfig, context: int) -> float:
    """FLOPs of the forward pass per token, averaged over a sequence of `context` tokens:

    2 (attention + feed-forward + output matrices) + 4 L H C (keys that a query sees on average)

    The output matrix counts though it be tied; looking up an embedding, norms, activations,
    rotations and the softmax are left out. The second term is q k^T and the weighted sum of v;
    causality shows (context + 1) / 2 keys on average, a sliding window fewer.

    Source: Kaplan et al. 2020, section 2.1, with the causal half counted once as in llm.c and
    nanoGPT's successors.
    """
    window = min(config.sliding_window or context, context)
    # min(t, window) for t = 1 to context
    keys = (window * (window + 1) / 2 + (context - window) * window) / context
    heads = config.num_heads if config.cached_heads else 0
    return 2 * _matrices(config) + 4 * config.num_layers * heads * config.head_width * keys


def training_flops_per_token(config: ModelConfig, context: int) -> float:
    """FLOPs of a training step per token: the forward pass and twice that for the backward pass."""
    return 3 * forward_flops_per_token(config, context)


def kv_bytes_per_token(
    config: ModelConfig, element_bytes: int = 2, *, int8_cache: bool = False
) -> int:
    """Bytes that a key/value cache holds per token: 2 L K C elements, and L D where feed-forward
    layers look back, whose inputs it keeps. int8_cache: keys and values in one byte an element, and
    2 L K scales in float32.
    """
    heads, width = 2 * config.cached_heads, config.head_width
    kept = heads * (width + 4 if int8_cache else width * element_bytes)
    kept += config.width * element_bytes if config.lookback else 0
    return config.num_layers * kept


def activation_bytes(
    config: ModelConfig,
    batch: int,
    context: int,
    *,
    half: bool,
    checkpointing: bool = False,
    device: str = "cpu",
) -> int:
    """Estimated bytes that autograd keeps from the forward pass to the backward pass of `batch`
    sequences of `context` tokens.

    half: matrix products under bfloat16 autocast, which also keeps a bfloat16 copy of every matrix,
    and of its input for every matrix that reads it. checkpointing: one residual a layer, and what
    the one block that is being recomputed keeps. device: its type; on a CPU attention may keep its
    probabilities (`trains_in_blocks`), elsewhere the fused kernel is assumed, which never does.

    tests/model/test_training_memory.py holds it within 5% of what autograd keeps, for models with
    LLaMA's parts and tables smaller than their activations. For other parts it is coarser: every
    norm counts as two RMSNorms a block do.
    """
    # From here on bytes per token and layer
    element = 2 if half else 4
    residual = 4 * config.width
    heads = config.num_heads * config.head_width
    kv_heads = config.num_kv_heads * config.head_width
    norms = 2 * (residual + 4 * config.width)  # input and normalised input, in float32
    inputs = (5 if half else 2) * element * config.width  # of q, k and v, and of gate and up
    if not config.cached_heads:
        heads = kv_heads = 0
    masked = config.sliding_window is not None or config.position in BIASED
    if not masked and trains_in_blocks(device, context, half=half):
        # q, k and v for every query head, the output, and the probabilities, softmaxed in float32
        attention = (
            element * 4 * heads
            + (6 if half else 4) * heads / config.head_width * (context + BLOCK) / 2
        )
    else:  # q, k, v, and the output in the kernel's layout and in the output matrix's
        attention = element * (3 * heads + 2 * kv_heads)
    # gate, up, the activated gate and the product; or up and its activation
    feed_forward = (
        element * (2 if config.feed_forward in UNGATED else 4) * config.feed_forward_width
    )
    layer = batch * context * (norms + inputs + attention + feed_forward)
    if half:  # autocast's copies of the layer's matrices, which no token count multiplies
        layer += (
            element * (_matrices(config) - config.vocab_size * config.width) / config.num_layers
        )
    layers = (
        config.num_layers * batch * context * residual + layer
        if checkpointing
        else config.num_layers * layer
    )
    # the last norm keeps as much as another; the loss keeps its gradients for the hidden states and
    # for the output matrix
    end = (
        batch * context * (residual + 4 * config.width + 4 * config.width)
        + 4 * config.vocab_size * config.width
    )
    return round(layers + end)


def logits_bytes(config: ModelConfig, batch: int, context: int) -> int:
    """Bytes of three float32 chunks of the loss: gradient of the last logits, next logits, their
    softmax.
    """
    return 3 * 4 * min(CHUNK, batch * context) * config.vocab_size


def weight_bytes(config: ModelConfig, bits: Literal[4, 16]) -> int:
    """Bytes of the weights for inference: bfloat16, or four bits (`Linear4bit`) in the linear
    layers of the blocks, the rest bfloat16.
    """
    everything = 2 * count_parameters(config).total
    if bits == 16:
        return everything
    with torch.device("meta"):
        block = build_block(config).bfloat16()
    # Quantized on the meta device, so the difference in bytes costs no memory
    full = _bytes(block)
    quantize_linears(block)
    return everything - config.num_layers * (full - _bytes(block))


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


@dataclass(frozen=True)
class Memory:
    """Bytes by part; `total` is their sum."""

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class TrainingMemory(Memory):
    """Weights and gradients in float32, the optimizers' moments, what the forward pass keeps for
    the backward pass, the loss's chunks.
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
    """Estimated memory of a training step on a micro-batch of `batch` sequences of `context`
    tokens: 16 bytes a parameter, what autograd keeps, and three chunks of the loss.

    Keywords as for `activation_bytes`. Allocator slack, library workspaces and what the backward
    pass needs in passing are left out; against that, the gradients are not there yet when the
    activations are at their most. Raises PlanError for sizes that the model is not built for.
    """
    check_sizes(config, batch, context)
    parameters = count_parameters(config).total
    return TrainingMemory(
        weights=4 * parameters,
        gradients=4 * parameters,
        optimizer_moments=8 * parameters,
        activations=activation_bytes(
            config, batch, context, half=half, checkpointing=checkpointing, device=device
        ),
        logits=logits_bytes(config, batch, context),
    )


def inference_memory(
    config: ModelConfig,
    batch: int,
    context: int,
    *,
    bits: Literal[4, 16] = 16,
    int8_cache: bool = False,
) -> InferenceMemory:
    """Memory of generating `batch` sequences at once, each of up to `context` tokens with its
    prompt. bits: of a weight in the blocks' matrices. int8_cache: keys and values in int8. Raises
    PlanError as `training_memory`.
    """
    check_sizes(config, batch, context)
    return InferenceMemory(
        weights=weight_bytes(config, bits),
        kv_cache=batch * context * kv_bytes_per_token(config, int8_cache=int8_cache),
    )


def check_sizes(config: ModelConfig, batch: int, context: int) -> None:
    """Raise PlanError for a batch or a context that the model is not built for."""
    for name, value in (("batch", batch), ("context", context)):
        if value < 1:
            raise PlanError(f"the {name} is {value}, but must be at least 1")
    if context > config.context_length:
        raise PlanError(
            f"the context is {context} tokens, but this model is built for {config.context_length};"
            " give at most that"
        )
