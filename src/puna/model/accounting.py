"""Arithmetic about a model that nobody has to build: parameters, FLOPs, bytes of cache and of memory.

All figures follow from `ModelConfig` alone. FLOPs count a multiply-add as two. Estimates say what they leave out.
"""

from dataclasses import dataclass

from puna.model.config import ModelConfig
from puna.nn.attention import BLOCK, trains_in_blocks
from puna.nn.loss import CHUNK


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters by part; `total` is their sum, with a tied output layer counted once."""

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
    """Parameters of every part of the model."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads  # q and o, k and v
    table = config.vocab_size * config.width
    return Parameters(
        embedding=table,
        attention=config.num_layers * heads * config.head_width * config.width,
        feed_forward=config.num_layers * 3 * config.width * config.feed_forward_width,
        norms=(2 * config.num_layers + 1) * config.width,
        output=0 if config.tie_embeddings else table,
    )


def forward_flops_per_token(config: ModelConfig, context: int) -> float:
    """FLOPs of the forward pass per token, averaged over a sequence of `context` tokens:

    2 (attention + feed-forward + output matrices) + 4 L H C (context + 1) / 2

    The output matrix counts though it be tied; looking up an embedding, norms, rotations and the softmax are left out. The second term
    is q k^T and the weighted sum of v over the keys that causality lets a query see.

    Source: Kaplan et al. 2020, section 2.1, with the causal half counted once as in llm.c and nanoGPT's successors.
    """
    parameters = count_parameters(config)
    matrices = parameters.attention + parameters.feed_forward + config.vocab_size * config.width
    attention = 4 * config.num_layers * config.num_heads * config.head_width * (context + 1) / 2
    return 2 * matrices + attention


def training_flops_per_token(config: ModelConfig, context: int) -> float:
    """FLOPs of a training step per token: the forward pass and twice that for the backward pass."""
    return 3 * forward_flops_per_token(config, context)


def kv_bytes_per_token(config: ModelConfig, element_bytes: int = 2) -> int:
    """Bytes that a key/value cache holds per token: 2 L K C elements."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_width * element_bytes


def activation_bytes(config: ModelConfig, batch: int, context: int, *, half: bool, checkpointing: bool = False, device: str = "cpu") -> int:
    """Estimated bytes that autograd keeps from the forward pass to the backward pass of `batch` sequences of `context` tokens.

    half: matrix products under bfloat16 autocast, which also keeps a bfloat16 copy of every matrix, and of its input for every matrix
    that reads it. checkpointing: one residual a layer, and what the one block that is being recomputed keeps. device: its type; on a CPU
    attention may keep its probabilities (`trains_in_blocks`), elsewhere the fused kernel is assumed, which never does.

    tests/model/test_training_memory.py holds it within 5% of what autograd keeps, for models with tables smaller than their activations.
    """
    element = 2 if half else 4
    residual = 4 * config.width
    heads = config.num_heads * config.head_width
    kv_heads = config.num_kv_heads * config.head_width
    norms = 2 * (residual + 4 * config.width)  # input and normalised input, in float32
    inputs = (5 if half else 2) * element * config.width  # of q, k and v, and of gate and up
    if trains_in_blocks(
        device, context, half=half
    ):  # q, k and v for every query head, the output, and the probabilities, softmaxed in float32
        attention = element * 4 * heads + (6 if half else 4) * config.num_heads * (context + BLOCK) / 2
    else:  # q, k, v, and the output in the kernel's layout and in the output matrix's
        attention = element * (3 * heads + 2 * kv_heads)
    feed_forward = element * 4 * config.feed_forward_width
    layer = batch * context * (norms + inputs + attention + feed_forward)
    if half:
        parameters = count_parameters(config)
        layer += element * (parameters.attention + parameters.feed_forward) / config.num_layers
    layers = config.num_layers * batch * context * residual + layer if checkpointing else config.num_layers * layer
    # the last norm keeps as much as another; the loss keeps its gradients for the hidden states and for the output matrix
    end = batch * context * (residual + 4 * config.width + 4 * config.width) + 4 * config.vocab_size * config.width
    return round(layers + end)


def training_memory_bytes(
    config: ModelConfig, batch: int, context: int, *, half: bool, checkpointing: bool = False, device: str = "cpu"
) -> int:
    """Estimated bytes of a training step: float32 weights, gradients and two AdamW moments (16 bytes a parameter), what autograd keeps,
    and three chunks of the loss (gradient of the last logits, next logits, their softmax).

    Arguments as for `activation_bytes`, with one micro-batch as the batch. Allocator slack, library workspaces and what the backward pass
    needs in passing are left out; against that, the gradients are not there yet when the activations are at their most.
    """
    logits = 3 * 4 * min(CHUNK, batch * context) * config.vocab_size
    kept = activation_bytes(config, batch, context, half=half, checkpointing=checkpointing, device=device)
    return 16 * count_parameters(config).total + kept + logits


def inference_memory_bytes(config: ModelConfig, batch: int, context: int, element_bytes: int = 2) -> int:
    """Estimated bytes of inference: weights and a full key/value cache for `batch` sequences of `context` tokens."""
    weights = count_parameters(config).total * element_bytes
    return weights + batch * context * kv_bytes_per_token(config, element_bytes)
