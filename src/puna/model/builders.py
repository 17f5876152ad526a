"""From a configuration to the parts that its names stand for: the only place that sees both.

The names stand in parts.py. Every builder gives the numbers of the shape by position, and the
options of the chosen name by keyword.
"""

from dataclasses import fields
from typing import cast

from torch import Tensor, nn

from puna.model.block import Block
from puna.model.config import ModelConfig, RopeScaling
from puna.model.parts import (
    ADDED,
    BIASED,
    FEED_FORWARDS,
    GATED,
    LAYERS,
    NORMS,
    PLACEMENTS,
    ROPE_SCALINGS,
    ROTARY,
)
from puna.nn.attention import Attention, NoAttention
from puna.nn.feed_forward import Activation, FeedForward, GatedFeedForward
from puna.nn.rope import RotaryEmbedding
from puna.nn.rope_scaling import FrequencyScaling


def build_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """The configuration's norm, over the model's width where no other is given."""
    norm: nn.Module = NORMS[config.norm].build(config, config.width if width is None else width)
    return norm


def build_activation(config: ModelConfig) -> Activation:
    """The activation of the configuration's ungated feed-forward layer, or of its gate."""
    choice = FEED_FORWARDS[config.feed_forward]
    return cast(
        Activation,
        choice.build(config, config.feed_forward_width) if choice.arguments else choice.load(),
    )


def build_feed_forward(config: ModelConfig) -> nn.Module:
    """The configuration's feed-forward layer."""
    if config.feed_forward in LAYERS:
        choice = LAYERS[config.feed_forward]
        other: nn.Module = choice.load()(
            config.width,
            config.feed_forward_width,
            bias=config.feed_forward_bias,
            **choice.values(config),
        )
        return other
    layer = GatedFeedForward if config.feed_forward in GATED else FeedForward
    return layer(
        config.width,
        config.feed_forward_width,
        build_activation(config),
        bias=config.feed_forward_bias,
    )


def build_block(config: ModelConfig) -> Block:
    """One layer."""
    heads = (config.num_heads, config.num_kv_heads, config.head_width)
    qk_norm = (lambda width: build_norm(config, width)) if config.qk_norm else None
    attention = (
        NoAttention()
        if config.attention == "none"
        else Attention(
            config.width,
            *heads,
            bias=config.attention_bias,
            qk_norm=qk_norm,
            qk_norm_over=config.qk_norm_over,
        )
    )
    block: Block = PLACEMENTS[config.placement].build(
        config, attention, build_feed_forward(config), lambda: build_norm(config)
    )
    return block


def build_rotary(config: ModelConfig) -> RotaryEmbedding | None:
    """The rotation of queries and keys, or None where the positions are no rotary ones."""
    if config.position not in ROTARY:
        return None
    choice = ROTARY[config.position]
    options = choice.values(config)
    if config.rope_scaling is not None:
        options["scaling"] = build_scaling(config.rope_scaling, config.rope_base)
    rotary: RotaryEmbedding = choice.load()(config.head_width, config.context_length, **options)
    return rotary


def build_scaling(scaling: RopeScaling, base: float) -> FrequencyScaling:
    """The scaling that `RotaryEmbedding` takes; base: of the frequencies that it will scale."""
    choice = ROPE_SCALINGS[scaling.kind]
    cls = choice.load()
    options = choice.values(scaling)
    if "base" in {field.name for field in fields(cls)}:
        options["base"] = base
    return cast(FrequencyScaling, cls(**options))


def build_added_positions(config: ModelConfig) -> nn.Module | None:
    """The positions that join the embeddings, or None where they stand elsewhere."""
    if config.position not in ADDED:
        return None
    added: nn.Module = ADDED[config.position].build(config, config.context_length, config.width)
    return added


def build_slopes(config: ModelConfig) -> Tensor | None:
    """The slope of each head's bias on the scores, or None where positions bias none."""
    if config.position not in BIASED:
        return None
    slopes: Tensor = BIASED[config.position].build(config, config.num_heads)
    return slopes
