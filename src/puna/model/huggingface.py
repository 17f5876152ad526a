"""The config.json of a model folder: LlamaForCausalLM's where that class can express the model,
else Puna's own kind.

A folder of model_type `puna` holds the whole `ModelConfig` under `model`, and no other program
takes it for a LLaMA that it is not.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from puna.config import validate
from puna.errors import ConfigError, ModelFolderError
from puna.model.config import ModelConfig

# feed_forward -> hidden_act: the gated layer is the same, only its activation differs
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {"swiglu": "silu", "geglu": "gelu", "reglu": "relu", "glu": "sigmoid", "bilinear": "linear"}
)
# RopeScaling -> rope_scaling, kind by kind; `ntk` is absent because it is a larger rope_theta
SCALINGS: Mapping[str, dict[str, str]] = MappingProxyType(
    {
        "llama3": {
            "factor": "factor",
            "low_frequency_factor": "low_freq_factor",
            "high_frequency_factor": "high_freq_factor",
            "original_context": "original_max_position_embeddings",
        },
        "linear": {"factor": "factor"},
        "yarn": {
            "factor": "factor",
            "original_context": "original_max_position_embeddings",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
        },
    }
)


def beyond_llama(config: ModelConfig) -> list[str]:
    """List what LlamaForCausalLM cannot express of this model, as `key = value`; empty where it can
    express all.
    """
    llama: dict[str, Any] = {
        "norm": "rmsnorm",
        "norm_eps_place": "inside",
        "norm_bias": False,
        "placement": "pre",
        "swish_beta": 1.0,
        "position": "rope",
        "embedding_scale": 1.0,
        "qk_norm": False,
        "sliding_window": None,
    }
    beyond = [
        f"{key} = {getattr(config, key)}"
        for key, value in llama.items()
        if getattr(config, key) != value
    ]
    return beyond + (
        [] if config.feed_forward in ACTIVATIONS else [f"feed_forward = {config.feed_forward}"]
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The config.json for this shape: model_type `llama`, or `puna` with everything under `model`
    (see `beyond_llama`).
    """
    if beyond_llama(config):
        return {
            "architectures": ["PunaForCausalLM"],
            "model_type": "puna",
            "model": config.model_dump(mode="json"),
        }
    scaling, base = config.rope_scaling, config.rope_base
    # NTK scaling is one larger base, factor^(C/(C-2)) base, so it needs no kind of its own
    if scaling and scaling.kind == "ntk":
        base, scaling = base * scaling.factor ** (config.head_width / (config.head_width - 2)), None
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": ACTIVATIONS[config.feed_forward],
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": base,
        "rope_scaling": (
            scaling
            and {
                "rope_type": scaling.kind,
                **{
                    theirs: getattr(scaling, ours)
                    for ours, theirs in SCALINGS[scaling.kind].items()
                },
            }
        ),
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": config.feed_forward_bias,
        "pad_token_id": config.padding_id,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def from_huggingface(values: dict[str, Any], origin: str) -> ModelConfig:
    """The shape that a config.json describes; keys that LlamaForCausalLM's leaves out have
    LlamaConfig's defaults.

    Raises ModelFolderError for another architecture, attention with biases, or an activation or
    RoPE scaling that Puna does not have.
    """
    if values.get("model_type") == "puna":
        shape = values.get("model")
        if not isinstance(shape, dict):
            raise ModelFolderError(
                f"{origin} says model_type puna, but holds no configuration under the key model"
            )
        return _validated(shape, origin)
    rope = _rope(values)
    # `type` is the older spelling
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = _unsupported(values, rope, kind)
    if unsupported:
        raise ModelFolderError(
            f"{origin} describes a model that Puna cannot read: {'; '.join(unsupported)}"
        )
    gates = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    try:
        scaling = {"kind": kind, **_known(SCALINGS[kind], rope)} if kind != "default" else None
        shape = {
            "vocab_size": values["vocab_size"],
            "width": values["hidden_size"],
            "feed_forward": gates[values.get("hidden_act", "silu")],
            "feed_forward_width": values["intermediate_size"],
            "feed_forward_bias": values.get("mlp_bias", False),
            "num_layers": values["num_hidden_layers"],
            "num_heads": values["num_attention_heads"],
            "num_kv_heads": values.get("num_key_value_heads") or values["num_attention_heads"],
            "context_length": values.get("max_position_embeddings", 2048),
            "norm_eps": values.get("rms_norm_eps", 1e-6),
            "rope_base": rope["rope_theta"],
            "rope_scaling": scaling,
            "tie_embeddings": values.get("tie_word_embeddings", False),
            "padding_id": _padding(values),
        }
    except KeyError as error:
        raise ModelFolderError(f"{origin} lacks the key {error}") from error
    if values.get("head_dim"):
        shape["head_width"] = values["head_dim"]
    return _validated(shape, origin)


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """All that is said about rotary positions: transformers 5 writes rope_parameters; 4 and most
    published folders the other two.
    """
    return {
        "rope_theta": values.get("rope_theta", 10000.0),
        **(values.get("rope_scaling") or {}),
        **(values.get("rope_parameters") or {}),
    }


def _unsupported(values: dict[str, Any], rope: dict[str, Any], kind: Any) -> list[str]:
    """List what Puna would misread, as `key = value (rule)`."""
    only = {
        "model_type": ("llama",),
        "hidden_act": tuple(ACTIVATIONS.values()),
        "attention_bias": (False,),
    }
    unsupported = [
        f"{key} = {values[key]!r} (only {', '.join(repr(rule) for rule in rules)} is supported)"
        for key, rules in only.items()
        if values.get(key, rules[0]) not in rules
    ]
    if kind not in ("default", *SCALINGS):
        return [
            *unsupported,
            (
                f"rope scaling {kind!r} (only {', '.join(repr(known) for known in SCALINGS)} is"
                " supported)"
            ),
        ]
    # These change the paper's factor on cos and sin, 0.1 ln(factor) + 1
    factors = ("attention_factor", "mscale", "mscale_all_dim")
    unsupported += [
        f"rope scaling with {key} = {rope[key]!r}"
        for key in factors
        if kind == "yarn" and rope.get(key) is not None
    ]
    if rope.get("truncate") is False:
        unsupported.append("rope scaling with truncate = False")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        unsupported.append(
            f"partial_rotary_factor = {rope['partial_rotary_factor']!r} (only 1.0 is supported)"
        )
    return unsupported


def _known(names: Mapping[str, str], rope: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a scaling under our names; those of YaRN that are left out have its paper's
    values.
    """
    optional = ("beta_fast", "beta_slow")
    return {
        ours: rope[theirs]
        for ours, theirs in names.items()
        if theirs not in optional or rope.get(theirs) is not None
    }


def _padding(values: dict[str, Any]) -> int | None:
    """pad_token_id, unless it names an id that is trained: many folders pad with the end token."""
    pad, size = values.get("pad_token_id"), values.get("vocab_size")
    ends = values.get("eos_token_id")
    trained = [values.get("bos_token_id"), *(ends if isinstance(ends, list) else [ends])]
    usable = (
        isinstance(pad, int) and isinstance(size, int) and 0 <= pad < size and pad not in trained
    )
    return pad if usable else None


def _validated(shape: dict[str, Any], origin: str) -> ModelConfig:
    try:
        return validate(ModelConfig, shape, origin)
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error
