"""Parameters by closed formula: what a comparison at equal parameters rests on, for every part that
a configuration can name.

Counted three ways: the formula written here, `count_parameters`, and the tensors of a model that is
built (on the meta device).
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.model.accounting import Parameters, count_parameters
from puna.model.config import ModelConfig
from puna.model.parts import FEED_FORWARDS, GATED, NORMS, PLACEMENTS, POSITIONS, UNGATED
from puna.model.transformer import build_transformer

NORMS_PER_BLOCK = {"pre": 2, "post": 2, "peri": 4, "reordered": 2, "parallel": 1}
SWISHES = ("swish", "swiglu")


def norm_size(config: ModelConfig, width: int) -> int:
    """A weight an entry, and a bias where there is one; ScaleNorm has one number, and no norm has
    none.
    """
    return {"none": 0, "scalenorm": 1}.get(config.norm, width * (2 if config.norm_bias else 1))


def formula(config: ModelConfig) -> Parameters:
    """With D, H, K, C, F, V, L and T (the longest context) of the configuration.

    Attention 2 D H C + 2 D K C; feed-forward 2 D F, 3 D F where gated, 2 D F + F^2 where
    self-gated, (2 k + 1) D F as a convolution over k positions; embedding V D, and T D for learned
    positions; output V D.
    """
    d, f, layers = config.width, config.feed_forward_width, config.num_layers
    qk_norms = 2 * norm_size(config, config.head_width) if config.qk_norm else 0
    attention = 2 * d * config.head_width * (config.num_heads + config.num_kv_heads) + qk_norms
    kernel = config.lookback + 1
    # outputs of D or of F inputs before the last matrix
    of_d = {"convolution": 2}.get(config.feed_forward, 2 if config.feed_forward in GATED else 1)
    of_f = 1 if config.feed_forward == "self_gated" else 0
    feed_forward = (of_d * kernel + 1) * d * f + of_f * f**2
    feed_forward += (of_d + of_f) * f + d if config.feed_forward_bias else 0
    feed_forward += {"scalar": 1, "channel": f}.get(str(config.swish_beta), 0)
    return Parameters(
        embedding=(
            config.vocab_size + (config.context_length if config.position == "learned" else 0)
        )
        * d,
        attention=layers * attention,
        feed_forward=layers * feed_forward,
        norms=(layers * NORMS_PER_BLOCK[config.placement] + (config.placement != "post"))
        * norm_size(config, d),
        output=0 if config.tie_embeddings else config.vocab_size * d,
    )


def built(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in build_transformer(config, "meta").parameters())


@st.composite
def configs(draw: Any) -> ModelConfig:
    """Any names that go together, of any shape."""
    kv_heads, norm = draw(st.integers(1, 3)), draw(st.sampled_from(sorted(NORMS)))
    feed_forward = draw(st.sampled_from(sorted(FEED_FORWARDS)))
    values = {
        "vocab_size": draw(st.integers(1, 99)),
        "width": 2 * draw(st.integers(1, 20)),
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_width": 2 * draw(st.integers(1, 8)),
        "feed_forward_width": draw(st.integers(1, 60)),
        "context_length": draw(st.integers(1, 30)),
        "tie_embeddings": draw(st.booleans()),
        "norm": norm,
        "placement": draw(st.sampled_from(sorted(PLACEMENTS))),
        "feed_forward": feed_forward,
        "feed_forward_bias": draw(st.booleans()),
        "position": draw(st.sampled_from(sorted(POSITIONS))),
        "qk_norm": norm != "none" and draw(st.booleans()),
    }
    if norm in ("rmsnorm", "layernorm", "prmsnorm"):
        values["norm_bias"] = draw(st.booleans())
    if norm == "prmsnorm":
        values |= {"norm_fraction": draw(st.floats(0.01, 1)), "norm_rounding": "ceil"}
    if feed_forward in SWISHES:
        values["swish_beta"] = draw(st.sampled_from([1.0, 1.702, "scalar", "channel"]))
    return ModelConfig.model_validate(values)


def test_the_table_has_every_placement() -> None:
    assert NORMS_PER_BLOCK.keys() == PLACEMENTS.keys()


@settings(max_examples=150)
@given(config=configs())
def test_any_configuration_has_the_parameters_of_the_formula_part_by_part(
    config: ModelConfig,
) -> None:
    assert count_parameters(config) == formula(config)
    assert built(config) == formula(config).total


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_norm_in_every_placement_has_the_parameters_of_the_formula(
    norm: str, placement: str
) -> None:
    """With biases, weights alone, one number, or nothing: hypothesis need not meet each pair."""
    shape = {
        "vocab_size": 11,
        "width": 32,
        "num_layers": 3,
        "num_heads": 2,
        "norm": norm,
        "placement": placement,
    }
    config = ModelConfig.model_validate({**shape, "qk_norm": norm not in ("none", "prmsnorm")})
    assert count_parameters(config) == formula(config)
    assert built(config) == formula(config).total


SHAPES = [
    (64, 1),
    (64, 8),
    (96, 32),
    (128, 32),
    (288, 32),
    (384, 256),
    (768, 1),
    (1000, 64),
    (4096, 256),
    (8192, 256),
]


def of_width(width: int, multiple: int, feed_forward: str, **changes: Any) -> ModelConfig:
    """Two layers whose F is left out, so that the rule of the configuration decides it."""
    shape = {
        "vocab_size": 100,
        "width": width,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_multiple": multiple if feed_forward in GATED else None,
    }
    return ModelConfig.model_validate({**shape, "feed_forward": feed_forward, **changes})


@pytest.mark.parametrize(("width", "multiple"), SHAPES)
def test_every_gated_and_ungated_pair_has_equal_parameters_within_the_rounding(
    width: int, multiple: int
) -> None:
    """Ungated 2 D 4 D; gated 3 D F with 8/3 D - 1 < F < 8/3 D + M: more than 3 D too few or 3 D M
    too many, no pair has.

    Everything outside the feed-forward layers is the same, and among the gated, and among the
    ungated, all is.
    """
    counts = {name: count_parameters(of_width(width, multiple, name)) for name in FEED_FORWARDS}
    assert {counts[name].feed_forward for name in UNGATED} == {2 * 8 * width**2}
    assert len({counts[name].feed_forward for name in GATED}) == 1
    assert len({counts[name].total - counts[name].feed_forward for name in counts}) == 1
    for ungated in UNGATED:
        for gated in GATED:
            assert (
                -2 * 3 * width
                < counts[gated].total - counts[ungated].total
                < 2 * 3 * width * multiple
            )


@given(width=st.integers(1, 4000).map(lambda n: 4 * n), multiple=st.integers(1, 512))
def test_the_pair_stays_within_the_rounding_at_any_width_and_multiple(
    width: int, multiple: int
) -> None:
    """By formula, which the tests above hold to real models."""
    gated, ungated = (
        formula(of_width(width, multiple, name, position="none")).total
        for name in ("swiglu", "gelu")
    )
    assert -2 * 3 * width < gated - ungated < 2 * 3 * width * multiple


@pytest.mark.parametrize("width", [96, 384, 768, 3072])
def test_a_width_of_which_8_thirds_is_a_multiple_makes_the_pair_equal(width: int) -> None:
    """3 D (8 D / 3) = 2 D 4 D, to the parameter."""
    assert count_parameters(of_width(width, 8 * width // 3, "swiglu")) == count_parameters(
        of_width(width, 8 * width // 3, "relu")
    )


@pytest.mark.parametrize(
    ("feed_forward", "beta", "more"),
    [("swish", "channel", 4 * 96), ("swiglu", "channel", 256), ("swiglu", "scalar", 1)],
)
def test_a_learned_beta_costs_one_parameter_or_one_a_channel(
    feed_forward: str, beta: str, more: int
) -> None:
    plain, learned = (
        of_width(96, 32, feed_forward, **changes) for changes in ({}, {"swish_beta": beta})
    )
    assert count_parameters(learned).total - count_parameters(plain).total == 2 * more


def test_at_the_same_width_a_gated_layer_has_half_as_many_again() -> None:
    """Why `feed_forward_width` is not what a comparison should hold equal."""
    gated, ungated = (
        count_parameters(of_width(96, 1, name, feed_forward_width=384)).feed_forward
        for name in ("swiglu", "relu")
    )
    assert gated / ungated == 1.5
