"""The names that a model's configuration may say: every choice of the decoder, one line each.

A new variant is a class (or function) in its file and a line in its table, which names the class
and its options with their defaults; docs/parts/add-your-own.md does it once. `ModelConfig` takes
its valid names and options from here, model/builders.py builds what they stand for. No torch.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from puna.choices import REQUIRED, Choice

# called with the width
NORMS: Mapping[str, Choice] = MappingProxyType(
    {
        "rmsnorm": Choice("norm", "puna.nn.norm:RMSNorm", eps=1e-5, bias=False, eps_place="inside"),
        "layernorm": Choice("norm", "puna.nn.norm:LayerNorm", eps=1e-5, bias=True),
        "prmsnorm": Choice(
            "norm",
            "puna.nn.norm:PartialRMSNorm",
            fraction=0.0625,
            eps=1e-5,
            rounding="floor",
            bias=False,
            eps_place="inside",
        ),
        "centernorm": Choice("norm", "puna.nn.norm:CenterNorm"),
        "scalenorm": Choice("norm", "puna.nn.norm:ScaleNorm", eps=1e-5),
        "none": Choice("norm", "torch.nn:Identity"),
    }
)

# called with attention, the feed-forward layer and a maker of norms
PLACEMENTS: Mapping[str, Choice] = MappingProxyType(
    {
        "pre": Choice("placement", "puna.model.block:PreNormBlock"),
        "post": Choice("placement", "puna.model.block:PostNormBlock"),
        "peri": Choice("placement", "puna.model.block:PeriNormBlock"),
        "reordered": Choice("placement", "puna.model.block:ReorderedNormBlock"),
        "parallel": Choice("placement", "puna.model.block:ParallelBlock"),
    }
)

# the activation between the two matrices of an ungated feed-forward layer: the function itself, or
# where it has options, what is called with F and them
UNGATED: Mapping[str, Choice] = MappingProxyType(
    {
        "relu": Choice("feed_forward", "torch.nn.functional:relu"),
        "relu2": Choice("feed_forward", "puna.nn.activation:relu_squared"),
        "gelu": Choice("gelu", "puna.nn.activation:gelu", approximate="none"),
        "swish": Choice("swish", "puna.nn.activation:swish", beta=1.0),
    }
)

# the activation of the gate, in one with three matrices, whose width follows the SwiGLU rule
GATED: Mapping[str, Choice] = MappingProxyType(
    {
        name: choice.deciding(feed_forward_multiple=256)
        for name, choice in {
            "glu": Choice("feed_forward", "torch:sigmoid"),
            "bilinear": Choice("feed_forward", "puna.nn.activation:identity"),
            "reglu": Choice("feed_forward", "torch.nn.functional:relu"),
            "geglu": Choice("gelu", "puna.nn.activation:gelu", approximate="none"),
            "swiglu": Choice("swish", "puna.nn.activation:swish", beta=1.0),
        }.items()
    }
)

# feed-forward layers of another form, called with D and F
LAYERS: Mapping[str, Choice] = MappingProxyType(
    {
        "self_gated": Choice("feed_forward", "puna.nn.feed_forward:SelfGatedFeedForward"),
        "convolution": Choice(
            "feed_forward",
            "puna.nn.gated_linear:ConvolutionalFeedForward",
            kernel=Field(
                3, gt=0, description="positions that a convolution sees, its own included"
            ),
        ),
    }
)

# positions: rotations of queries and keys, called with C and the context length; vectors added to
# the embeddings, called with the context length and D; a slope for each head's bias on the scores,
# called with H; or nothing
ROTARY: Mapping[str, Choice] = MappingProxyType(
    {
        "rope": Choice(
            "rope", "puna.nn.rope:RotaryEmbedding", base=10000.0, scaling=None, fraction=1.0
        )
    }
)
ADDED: Mapping[str, Choice] = MappingProxyType(
    {
        "learned": Choice("position", "puna.nn.position:LearnedPositions"),
        "sinusoidal": Choice("position", "puna.nn.position:SinusoidalPositions"),
    }
)
BIASED: Mapping[str, Choice] = MappingProxyType(
    {"alibi": Choice("position", "puna.nn.position:alibi_slopes")}
)

ROPE_SCALINGS: Mapping[str, Choice] = MappingProxyType(
    {
        "llama3": Choice(
            "",
            "puna.nn.rope_scaling:Llama3Scaling",
            factor=8.0,
            low_frequency_factor=1.0,
            high_frequency_factor=4.0,
            original_context=8192,
        ),
        "linear": Choice("", "puna.nn.rope_scaling:LinearScaling", factor=8.0),
        "ntk": Choice("", "puna.nn.rope_scaling:NTKScaling", factor=8.0),
        "yarn": Choice(
            "",
            "puna.nn.rope_scaling:YaRNScaling",
            factor=8.0,
            original_context=REQUIRED,
            beta_fast=32.0,
            beta_slow=1.0,
            mscale=None,
            truncate=True,
        ),
        "listed": Choice("", "puna.nn.rope_scaling:ListedScaling", factors=REQUIRED, mscale=1.0),
    }
)

FEED_FORWARDS: Mapping[str, Choice] = MappingProxyType({**UNGATED, **GATED, **LAYERS})
POSITIONS: Mapping[str, Choice] = MappingProxyType(
    {**ROTARY, **ADDED, **BIASED, "none": Choice("position", "torch.nn:Identity")}
)

# standard deviations of the weights that training starts from, called with D
INITS: Mapping[str, Choice] = MappingProxyType(
    {
        "normal": Choice("init", "puna.model.init:normal", std=0.02),
        "fan_in": Choice("init", "puna.model.init:fan_in"),
        "mup": Choice("init", "puna.model.init:mup"),
    }
)
