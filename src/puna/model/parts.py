"""From the names in a configuration to the parts that they mean: every choice of the decoder, one
line each.

A new variant is a class (or function) in its file and a line in its table;
docs/parts/add-your-own.md does it once. The tables say what exists: `ModelConfig` takes its valid
names from their keys.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.block import (
    Block,
    ParallelBlock,
    PeriNormBlock,
    PostNormBlock,
    PreNormBlock,
    ReorderedNormBlock,
)
from puna.nn.activation import Swish, relu_squared
from puna.nn.attention import Attention
from puna.nn.feed_forward import Activation, FeedForward, GatedFeedForward
from puna.nn.norm import CenterNorm, LayerNorm, PartialRMSNorm, RMSNorm, ScaleNorm
from puna.nn.position import LearnedPositions, SinusoidalPositions, alibi_slopes
from puna.nn.rope import RotaryEmbedding
from puna.nn.rope_scaling import LinearScaling, Llama3Scaling, NTKScaling, YaRNScaling

if TYPE_CHECKING:
    from puna.model.config import ModelConfig


def _identity(x: Tensor) -> Tensor:
    return x


def _swish(config: "ModelConfig") -> Activation:
    if isinstance(config.swish_beta, str):
        return Swish(
            config.feed_forward_width if config.swish_beta == "channel" else None, learned=True
        )
    return F.silu if config.swish_beta == 1 else Swish(beta=config.swish_beta)


NORMS: Mapping[str, Callable[[int, "ModelConfig"], nn.Module]] = MappingProxyType(
    {
        "rmsnorm": lambda width, c: RMSNorm(
            width, c.norm_eps, bias=c.norm_bias, eps_place=c.norm_eps_place
        ),
        "layernorm": lambda width, c: LayerNorm(width, c.norm_eps, bias=c.norm_bias),
        "prmsnorm": lambda width, c: PartialRMSNorm(
            width,
            c.norm_fraction,
            c.norm_eps,
            rounding=c.norm_rounding,
            bias=c.norm_bias,
            eps_place=c.norm_eps_place,
        ),
        "centernorm": lambda width, _: CenterNorm(width),
        "scalenorm": lambda width, c: ScaleNorm(width, c.norm_eps),
        "none": lambda _width, _: nn.Identity(),
    }
)

PLACEMENTS: Mapping[str, type[Block]] = MappingProxyType(
    {
        "pre": PreNormBlock,
        "post": PostNormBlock,
        "peri": PeriNormBlock,
        "reordered": ReorderedNormBlock,
        "parallel": ParallelBlock,
    }
)

# the activation between the two matrices of an ungated feed-forward layer
UNGATED: Mapping[str, Callable[["ModelConfig"], Activation]] = MappingProxyType(
    {
        "relu": lambda _: F.relu,
        "relu2": lambda _: relu_squared,
        "gelu": lambda _: F.gelu,
        "swish": _swish,
    }
)

# the activation of the gate, in one with three matrices
GATED: Mapping[str, Callable[["ModelConfig"], Activation]] = MappingProxyType(
    {
        "glu": lambda _: torch.sigmoid,
        "bilinear": lambda _: _identity,
        "reglu": lambda _: F.relu,
        "geglu": lambda _: F.gelu,
        "swiglu": _swish,
    }
)

# positions: rotations of queries and keys, vectors added to the embeddings, a slope for each head's
# bias on the scores; or "none"
ROTARY: Mapping[str, Callable[["ModelConfig"], RotaryEmbedding]] = MappingProxyType(
    {
        "rope": lambda c: RotaryEmbedding(
            c.head_width,
            c.context_length,
            c.rope_base,
            c.rope_scaling.build(c.rope_base) if c.rope_scaling else None,
        ),
    }
)
ADDED: Mapping[str, Callable[["ModelConfig"], nn.Module]] = MappingProxyType(
    {
        "learned": lambda c: LearnedPositions(c.context_length, c.width),
        "sinusoidal": lambda c: SinusoidalPositions(c.context_length, c.width),
    }
)
BIASED: Mapping[str, Callable[["ModelConfig"], Tensor]] = MappingProxyType(
    {"alibi": lambda c: alibi_slopes(c.num_heads)}
)

ROPE_SCALINGS: Mapping[str, type[Llama3Scaling | LinearScaling | NTKScaling | YaRNScaling]] = (
    MappingProxyType(
        {"llama3": Llama3Scaling, "linear": LinearScaling, "ntk": NTKScaling, "yarn": YaRNScaling}
    )
)


def build_norm(config: "ModelConfig", width: int | None = None) -> nn.Module:
    """The configuration's norm, over the model's width where no other is given."""
    return NORMS[config.norm](config.width if width is None else width, config)


def build_feed_forward(config: "ModelConfig") -> nn.Module:
    """The configuration's feed-forward layer, gated or not."""
    name, width, hidden, bias = (
        config.feed_forward,
        config.width,
        config.feed_forward_width,
        config.feed_forward_bias,
    )
    if name in GATED:
        return GatedFeedForward(width, hidden, GATED[name](config), bias=bias)
    return FeedForward(width, hidden, UNGATED[name](config), bias=bias)


def build_block(config: "ModelConfig") -> Block:
    """One layer."""
    heads = (config.num_heads, config.num_kv_heads, config.head_width)
    qk_norm = (lambda width: build_norm(config, width)) if config.qk_norm else None
    attention = Attention(config.width, *heads, qk_norm=qk_norm)
    return PLACEMENTS[config.placement](
        attention, build_feed_forward(config), lambda: build_norm(config)
    )
