"""The shape of a model: what is derived, what is rejected, and in which words."""

import pytest
from pydantic import ValidationError

from puna.config import validate
from puna.errors import ConfigError
from puna.model.config import ModelConfig
from puna.model.presets import PRESETS

SMALL = {"vocab_size": 100, "width": 64, "num_layers": 2, "num_heads": 4}


def test_what_is_left_out_is_derived() -> None:
    config = ModelConfig(**SMALL)
    assert (config.head_width, config.num_kv_heads, config.feed_forward_width) == (16, 4, 256)
    assert (config.context_length, config.rope_base, config.norm_eps, config.tie_embeddings) == (
        2048,
        10000.0,
        1e-5,
        False,
    )
    assert ModelConfig(**SMALL, feed_forward_multiple=32).feed_forward_width == 192


def test_what_is_given_is_kept() -> None:
    config = ModelConfig(**SMALL, num_kv_heads=2, head_width=6, feed_forward_width=99)
    assert (config.head_width, config.num_kv_heads, config.feed_forward_width) == (6, 2, 99)


def test_keys_beside_a_preset_replace_its_own() -> None:
    config = ModelConfig.model_validate(
        {"preset": "llama-3.2-1b", "num_layers": 2, "rope_scaling": {"original_context": 4096}}
    )
    assert (config.num_layers, config.width, config.head_width) == (2, 2048, 64)
    assert config.rope_scaling is not None
    assert (config.rope_scaling.factor, config.rope_scaling.original_context) == (32.0, 4096)
    assert (
        ModelConfig.model_validate({"preset": "llama-3.2-1b", "rope_scaling": None}).rope_scaling
        is None
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_dumped_config_is_read_back(name: str) -> None:
    """puna.json and checkpoints rely on it."""
    config = ModelConfig.model_validate({"preset": name})
    again = ModelConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert again.fingerprint() == config.fingerprint()


def test_is_frozen() -> None:
    config = ModelConfig(**SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        config.width = 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_heads": 5},
            r"width 64 is not a multiple of num_heads 5; change one, or give head_width",
        ),
        ({"num_kv_heads": 3}, r"num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"head_width": 7}, r"head_width 7 is odd"),
        ({"num_layers": 0}, r"num_layers = 0: .*greater than 0"),
        ({"width": "wide"}, r"width = 'wide': .*valid integer"),
        ({"norm_eps": 0.0}, r"norm_eps = 0.0"),
        ({"rope_base": float("inf")}, r"rope_base = inf: .*finite"),
        ({"tie_embeddings": 1}, r"tie_embeddings = 1: .*valid boolean"),
        ({"rope_scaling": {"factor": 0.5}}, r"rope_scaling.factor = 0.5"),
        (
            {"rope_scaling": {"low_frequency_factor": 4.0}},
            r"low_frequency_factor 4.0 must be below high_frequency_factor 4.0",
        ),
    ],
)
def test_impossible_shapes_are_rejected_with_the_value_and_the_rule(
    changes: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=r"a recipe: .*" + message):
        validate(ModelConfig, {**SMALL, **changes}, "a recipe")


def test_every_broken_rule_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(
            ModelConfig,
            {"width": -1, "num_layers": 2, "num_heads": 1, "feed_forward_multiple": 0},
            "r",
        )
    for part in ("width = -1", "vocab_size is required", "feed_forward_multiple = 0"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("num_layer", "num_layers"),
        ("n_heads", "num_heads"),
        ("context_len", "context_length"),
        ("widht", "width"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key {key} \(did you mean {nearest}\?\)"):
        validate(ModelConfig, {**SMALL, key: 4}, "r")


def test_an_unknown_preset_lists_the_names() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'llama-8b'") as caught:
        validate(ModelConfig, {"preset": "llama-8b"}, "r")
    assert all(name in str(caught.value) for name in PRESETS)
