"""Arithmetic about a model that nobody has to build: parameters, FLOPs, bytes of cache and of memory.

All figures follow from `ModelConfig` alone. FLOPs count a multiply-add as two. Estimates say what they leave out.
"""

from dataclasses import dataclass

from puna.model.config import ModelConfig


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


def training_memory_bytes(config: ModelConfig, batch: int, context: int, *, half: bool, checkpointing: bool = False) -> int:
    """Estimated bytes of a training step: float32 weights, gradients and two AdamW moments (16 bytes a parameter), and activations.

    batch: sequences of one micro-batch. half: activations of the matrix products in bfloat16. checkpointing: keep one residual a layer
    and recompute one block at a time. Allocator slack and library workspaces are left out. With tests/model/test_accounting.py, which
    sums what autograd really keeps.
    """
    tokens = batch * context
    element = 2 if half else 4
    heads = config.num_heads * config.head_width
    kv_heads = config.num_kv_heads * config.head_width
    residual = 4 * config.width
    # two norms keep their input's square root chain in float32 (input, normalised) and their output; see nn/norm.py
    norms = 2 * (2 * 4 * config.width + element * config.width)
    attention = element * (2 * heads + 2 * heads + kv_heads + heads * (context / 2 / config.head_width))
    feed_forward = element * 4 * config.feed_forward_width
    layer = norms + attention + feed_forward
    layers = config.num_layers * residual + layer if checkpointing else config.num_layers * layer
    loss = 4 * 2 * config.width + 3 * 4 * 1024 * config.vocab_size / tokens
    return round(16 * count_parameters(config).total + tokens * (layers + loss))


def inference_memory_bytes(config: ModelConfig, batch: int, context: int, element_bytes: int = 2) -> int:
    """Estimated bytes of inference: weights and a full key/value cache for `batch` sequences of `context` tokens."""
    weights = count_parameters(config).total * element_bytes
    return weights + batch * context * kv_bytes_per_token(config, element_bytes)
