"""config.json of others: both generations of transformers, defaults, and what Puna rejects rather
than misreads.
"""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from puna.errors import ModelFolderError
from puna.model.config import ModelConfig
from puna.model.families import FAMILIES
from puna.model.huggingface import beyond_llama, from_huggingface, to_huggingface
from puna.model.presets import PRESETS

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
STRETCHED = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(**changes: Any) -> ModelConfig:
    return from_huggingface({**SHAPE, **changes}, "config.json")


@pytest.mark.parametrize(
    "rope",
    [
        # transformers 4
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **STRETCHED}},
        # before 4.43; whole numbers
        {"rope_theta": 500000, "rope_scaling": {"type": "llama3", **STRETCHED, "factor": 32}},
        # transformers 5
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **STRETCHED}},
        {
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **STRETCHED},
        },
    ],
)
def test_all_spellings_of_the_positions_give_the_preset(rope: dict[str, Any]) -> None:
    expected = ModelConfig.model_validate({"preset": "llama-3.2-1b"})
    assert read(**rope) == expected.model_copy(update={"preset": None})


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read_back(name: str) -> None:
    config = ModelConfig.model_validate({"preset": name})
    again = from_huggingface(to_huggingface(config), "config.json")
    # how the shape came about, which config.json has no place for
    plain = {"preset", "feed_forward_multiple"}
    assert again.model_dump(exclude=plain) == config.model_dump(exclude=plain)


@pytest.mark.parametrize("name", ["llama-7b", "llama-2-70b", "llama-3.1-8b", "llama-3.2-3b"])
def test_transformers_understands_it_as_meant(name: str) -> None:
    config = ModelConfig.model_validate({"preset": name})
    theirs = LlamaConfig.from_dict(to_huggingface(config))
    assert theirs.rope_parameters["rope_theta"] == config.rope_base
    assert theirs.rope_parameters["rope_type"] == ("llama3" if config.rope_scaling else "default")
    assert (theirs.head_dim, theirs.num_key_value_heads) == (config.head_width, config.num_kv_heads)
    again = from_huggingface(theirs.to_dict(), "config.json")
    assert to_huggingface(again) == to_huggingface(config)


def test_keys_left_out_have_transformers_defaults() -> None:
    bare = {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    theirs, ours = LlamaConfig(**bare), from_huggingface(bare, "config.json")
    assert (
        (ours.num_kv_heads, ours.head_width)
        == (theirs.num_key_value_heads, theirs.head_dim)
        == (4, 16)
    )
    assert (ours.context_length, ours.norm_eps) == (
        theirs.max_position_embeddings,
        theirs.rms_norm_eps,
    )
    assert (ours.rope_base, ours.rope_scaling) == (theirs.rope_parameters["rope_theta"], None)
    assert ours.tie_embeddings == theirs.tie_word_embeddings


def test_an_explicit_head_width_is_kept() -> None:
    assert read(head_dim=96).head_width == 96
    assert read(head_dim=None).head_width == 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model_type": "gemma"},
            r"model_type = 'gemma' \(only 'llama', 'mistral', .* supported\)",
        ),
        ({"hidden_act": "mish"}, r"hidden_act = 'mish' \(only 'silu', 'swish', .* is supported\)"),
        ({"hidden_act": ["silu"]}, r"hidden_act = \['silu'\]"),
        ({"attention_bias": 1}, r"attention_bias = 1 \(only true or false is supported\)"),
        (
            {"rope_scaling": {"rope_type": "mrope"}},
            r"rope scaling 'mrope' \(only 'llama3', 'linear', 'yarn', .* is supported\)",
        ),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope scaling \['yarn'\]"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor = 0.5",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            r"positions that differ between layers \(full_attention\)",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": YARN},
            r'rope_scaling = \{"rope_type": "yarn", .*\} beside rope_parameters = \{"rope_theta":',
        ),
        ({"rope_scaling": "yarn"}, "rope_scaling is no object of keys and values"),
    ],
)
def test_what_puna_has_not_is_rejected_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(
        ModelFolderError, match=r"^config.json describes a model that Puna cannot read: .*" + reason
    ):
        read(**changes)


def test_all_reasons_are_given_at_once() -> None:
    with pytest.raises(
        ModelFolderError,
        match=r"model_type = 'gemma'.*; hidden_act = 'mish'.*; rope scaling 'mrope'",
    ):
        read(model_type="gemma", hidden_act="mish", rope_scaling={"rope_type": "mrope"})


SMALL: dict[str, Any] = {"vocab_size": 100, "width": 64, "num_layers": 2, "num_heads": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"feed_forward": "geglu", "feed_forward_bias": True},
        {"feed_forward": "bilinear", "padding_id": 3},
        {"rope_scaling": {"kind": "linear", "factor": 4.0}},
        {
            "rope_scaling": {
                "kind": "yarn",
                "factor": 4.0,
                "original_context": 512,
                "beta_fast": 16.0,
            }
        },
        {
            "rope_scaling": {
                "kind": "yarn",
                "factor": 4.0,
                "original_context": 512,
                "mscale": 1.2,
                "truncate": False,
            }
        },
        {"rope_scaling": {"kind": "listed", "factors": [1.0] * 7 + [2.0], "mscale": 1.1}},
        {"attention_bias": "all"},
        {"feed_forward": "geglu", "gelu_approximate": "tanh"},
        {"swish_beta": 1.702},
    ],
    ids=str,
)
def test_what_llama_can_express_is_written_as_llama(changes: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(SMALL | changes)
    assert beyond_llama(config) == []
    assert to_huggingface(config)["model_type"] == "llama"
    again = from_huggingface(to_huggingface(config), "config.json")
    assert again.model_dump() == config.model_dump()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral", {"sliding_window": 7}),
        ("qwen2", {"attention_bias": "qkv"}),
        ("qwen2", {"attention_bias": "qkv", "sliding_window": 7}),
        ("qwen3", {"qk_norm": True, "attention_bias": "all", "sliding_window": 7}),
        ("smollm3", {"layers_without_rope": [1]}),
        ("olmo2", {"placement": "reordered", "qk_norm": True, "qk_norm_over": "width"}),
        ("arcee", {"feed_forward": "relu2", "feed_forward_bias": True}),
        ("arcee", {"feed_forward": "gelu", "gelu_approximate": "tanh"}),
    ],
    ids=str,
)
def test_what_a_relative_can_express_is_written_as_it(name: str, changes: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(SMALL | changes)
    assert beyond_llama(config)
    assert to_huggingface(config)["model_type"] == name
    again = from_huggingface(to_huggingface(config), "config.json")
    assert again.model_dump() == config.model_dump()


def test_later_keys_leave_fingerprints_alone() -> None:
    """What releases before them wrote has the same hash, with a YaRN scaling too."""
    config = ModelConfig.model_validate({"preset": "llama-3.2-1b"})
    assert config.fingerprint() == "66cd092a5569f058"
    yarn = {"kind": "yarn", "factor": 4.0, "original_context": 512}
    assert (
        ModelConfig.model_validate({**SMALL, "rope_scaling": yarn}).fingerprint()
        == "5d84b6e21728232c"
    )


def test_ntk_scaling_is_written_as_its_larger_base() -> None:
    """theta_i factor^(-2i/(C-2)) are the frequencies of base * factor^(C/(C-2)): C = 16, factor
    8.
    """
    config = ModelConfig.model_validate(SMALL | {"rope_scaling": {"kind": "ntk", "factor": 8.0}})
    again = from_huggingface(to_huggingface(config), "config.json")
    assert again.rope_scaling is None
    assert again.rope_base == pytest.approx(10000 * 8 ** (16 / 14))


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "layernorm"},
        {"norm_eps_place": "outside"},
        {"norm_bias": True},
        {"placement": "post"},
        {"feed_forward": "relu", "attention_bias": "qkv"},
        {"swish_beta": 2.0},
        {"swish_beta": "scalar"},
        {"position": "alibi"},
        {"qk_norm": True, "placement": "reordered"},
        {"sliding_window": 7, "feed_forward_bias": True},
        {"layers_without_rope": [0], "sliding_window": 7},
    ],
    ids=str,
)
def test_what_no_family_express_is_another_type_that_comes_back_whole(
    changes: dict[str, Any],
) -> None:
    config = ModelConfig.model_validate({"preset": "puna-1m"} | changes)
    values = to_huggingface(config)
    assert (values["model_type"], values["architectures"]) == ("puna", ["PunaForCausalLM"])
    assert from_huggingface(values, "config.json") == config


@pytest.mark.parametrize(
    ("model", "message"),
    [(None, "holds no configuration under the key model"), ({"width": 3}, "is required")],
)
def test_a_folder_of_our_type_that_is_damaged_is_rejected(model: Any, message: str) -> None:
    with pytest.raises(ModelFolderError, match=message):
        from_huggingface({"model_type": "puna", "model": model}, "config.json")


@pytest.mark.parametrize(
    ("pad", "expected"),
    [(5, 5), (None, None), (-1, None), (128256, None), (1, None), (2, None), (3, None)],
)
def test_padding_is_what_nothing_else_is(pad: int | None, expected: int | None) -> None:
    """An id that also begins or ends texts must be trained: transformers would freeze its
    embedding, which is no one's wish.
    """
    assert read(pad_token_id=pad, bos_token_id=1, eos_token_id=[2, 3]).padding_id == expected


@pytest.mark.parametrize(
    "key",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ModelFolderError, match=rf"config.json lacks the key '{key}'"):
        from_huggingface(
            {name: value for name, value in SHAPE.items() if name != key}, "config.json"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 5}, "num_heads 32 is not a multiple of num_kv_heads 5"),
        ({"num_hidden_layers": -1}, "num_layers = -1"),
        ({"rope_theta": None}, "rope_base = None"),
        ({"rope_theta": "big"}, "rope_base = 'big'"),
        (
            {"rope_scaling": {"rope_type": "llama3", **STRETCHED, "factor": []}},
            r"rope_scaling.factor = \[\]",
        ),
    ],
)
def test_impossible_values_are_a_fault_of_the_folder(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFolderError, match=f"config.json: .*{message}"):
        read(**changes)


KEYS = (
    *SHAPE,
    *("hidden_act", "head_dim", "rope_theta", "rope_scaling", "rope_parameters", "layer_types"),
    *("attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "max_window_layers"),
    *("no_rope_layers", "no_rope_layer_interval", "architectures", "residual_multiplier"),
    *("original_max_position_embeddings", "partial_rotary_factor", "pad_token_id"),
)
ROPE_KEYS = (
    *("rope_type", "type", "rope_theta", "factor", "attention_factor", "mscale", "short_factor"),
    *("mscale_all_dim", "beta_fast", "truncate", "original_max_position_embeddings"),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("1e5")
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=2)


@given(
    family=st.sampled_from(list(FAMILIES)),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    kind=st.sampled_from(["default", "linear", "llama3", "yarn", "dynamic", "longrope"]),
    rope=st.dictionaries(st.sampled_from(ROPE_KEYS), VALUES, max_size=3),
)
def test_no_value_of_any_key_escapes_as_another_exception(
    family: str, changes: dict[str, Any], kind: str, rope: dict[str, Any]
) -> None:
    with suppress(ModelFolderError):
        read(**{"model_type": family, "rope_scaling": {"rope_type": kind, **rope}, **changes})
