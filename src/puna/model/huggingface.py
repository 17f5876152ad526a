"""The config.json of a model folder: that of the first family of transformers that can express the
model, else Puna's own kind.

A folder of model_type `puna` holds the whole `ModelConfig` under `model`, and no other program
takes it for a LLaMA that it is not.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from puna.config import validate
from puna.errors import ConfigError, ModelFolderError
from puna.model.config import ModelConfig
from puna.model.families import (
    FAMILIES,
    GATES,
    LLAMA,
    MULTIPLIERS,
    SPELLINGS,
    UNGATED_FORMS,
    WRITTEN,
    Family,
    family_name,
)
from puna.model.rope_settings import read_rope, write_rope

# Keys with which LlamaForCausalLM does nothing, and by which a model of another family that does
# not say its name is known
TELLTALES = (
    "sliding_window",
    "no_rope_layers",
    "layer_types",
    "embedding_multiplier",
    "logits_scaling",
)

SWITCHES = tuple(key for key, value in LLAMA.items() if isinstance(value, bool))
# No model is so wide, and products of two such numbers are still numbers of bytes
WIDEST = 1 << 28
LONGEST = 1 << 24


def beyond_llama(config: ModelConfig) -> list[str]:
    """List what LlamaForCausalLM cannot express of this model, as `key = value`; empty where it can
    express all.
    """
    return _beyond(config, "llama")


def _beyond(config: ModelConfig, name: str) -> list[str]:
    """List what the class of this family cannot express of the model, as `key = value`."""
    family = FAMILIES[name]
    forms = GATES if family.gated else UNGATED_FORMS
    biases = {"none": ("none",), "qkv": ("qkv",), "flag": ("none", "all")}
    allowed: dict[str, tuple[Any, ...]] = {
        "norm": ("rmsnorm",),
        "norm_eps_place": ("inside",),
        "norm_bias": (False,),
        "placement": ("pre",),
        "swish_beta": (1.0, 1.702),
        "position": ("rope",),
        "rope_fraction": (1.0,),
        "embedding_scale": (1.0,),
        "qk_norm": (False,),
        "qk_norm_over": ("head",),
        "feed_forward": tuple({form["feed_forward"] for form in forms.values()}),
        "attention_bias": biases[family.attention_bias],
        **{key: (value,) for key, value in family.parts.items()},
    }
    if name != "smollm3":
        allowed["layers_without_rope"] = (None,)
    if family.window == "none" or name == "smollm3":
        allowed["sliding_window"] = (None,)
    if not family.mlp_bias:
        allowed["feed_forward_bias"] = (False,)
    return [
        f"{key} = {getattr(config, key)}"
        for key, values in allowed.items()
        if getattr(config, key) not in values
    ]


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The config.json for this shape: of the first family that can express it, or model_type `puna`
    with everything under `model`.
    """
    name = next((name for name in WRITTEN if not _beyond(config, name)), None)
    if name is None:
        return {
            "architectures": ["PunaForCausalLM"],
            "model_type": "puna",
            "model": config.model_dump(mode="json"),
        }
    family = FAMILIES[name]
    return {
        "architectures": [family.architecture],
        "model_type": name,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": _written_activation(config, family),
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        **write_rope(config),
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias != "none",
        "mlp_bias": config.feed_forward_bias,
        "pad_token_id": config.padding_id,
        "initializer_range": 0.02,
        "use_cache": True,
        **_written_layers(config, name),
    }


def _written_activation(config: ModelConfig, family: Family) -> str:
    options = ("feed_forward", "gelu_approximate", "swish_beta")
    defaults = {key: ModelConfig.model_fields[key].default for key in options}
    chosen = {key: getattr(config, key) for key in options}
    forms = GATES if family.gated else UNGATED_FORMS
    return next(name for name, form in forms.items() if {**defaults, **form} == chosen)


def _written_layers(config: ModelConfig, name: str) -> dict[str, Any]:
    """The keys that only some families have: windows, and layers without rotation."""
    window = config.sliding_window
    if name == "mistral":
        return {"sliding_window": window}
    if FAMILIES[name].window == "switched" and name != "smollm3":
        used = window is not None
        return {"use_sliding_window": used, "sliding_window": window, "max_window_layers": 0}
    if name == "smollm3":
        skipped = config.layers_without_rope or ()
        turning = [int(layer not in skipped) for layer in range(config.num_layers)]
        return {"use_sliding_window": False, "no_rope_layers": turning}
    return {}


def from_huggingface(values: Mapping[str, Any], origin: str) -> ModelConfig:
    """The shape that a config.json describes; keys that it leaves out have the defaults of its
    family's class in transformers. Numbers may be written as text.

    Raises ModelFolderError for another architecture, an activation or RoPE scaling that Puna does
    not have, windows in some of the layers, and keys that contradict each other.
    """
    if values.get("model_type") == "puna":
        shape = values.get("model")
        if not isinstance(shape, dict):
            raise ModelFolderError(
                f"{origin} says model_type puna, but holds no configuration under the key model"
            )
        return _validated(shape, origin)
    name = family_name(values)
    family = FAMILIES.get(name) if isinstance(name, str) else None
    # the rest is judged as LLaMA's, so that all reasons are given at once
    known = family or FAMILIES["llama"]
    values = {**LLAMA, **known.defaults, **_given(values)}
    problems = []
    if family is None:
        problems.append(
            f"model_type = {name!r} (only {', '.join(repr(known) for known in FAMILIES)} is"
            " supported)"
        )
    try:
        rope = read_rope(values, values["max_position_embeddings"], LLAMA["rope_theta"])
        problems += _unsupported(values, known)
        problems += rope.unsupported
        if problems:
            raise ModelFolderError(
                f"{origin} describes a model that Puna cannot read: {'; '.join(problems)}"
            )
        shape = {
            **_shape(values, known),
            "context_length": rope.context,
            "rope_base": rope.base,
            "rope_scaling": rope.scaling,
            "rope_fraction": rope.fraction,
        }
    except KeyError as error:
        raise ModelFolderError(f"{origin} lacks the key {error}") from error
    return _validated(shape, origin)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are given: numbers in texts are read, and switches that are null are absent."""
    plain = {
        key: {inner: _number(value) for inner, value in value.items()}
        if key in ("rope_scaling", "rope_parameters") and isinstance(value, dict)
        else _number(value)
        for key, value in values.items()
    }
    return {key: value for key, value in plain.items() if value is not None or key not in SWITCHES}


def _number(value: Any) -> Any:
    if isinstance(value, str) and len(value) < 32:
        if re.fullmatch(r"[+-]?[0-9]+", value):
            return int(value)
        if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
            return float(value)
    return value


def _shape(values: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The keys of `ModelConfig`, but for those of the positions. Raises KeyError for a size that
    has no default.
    """
    layers = values["num_hidden_layers"]
    biases = {"none": "none", "qkv": "qkv", "flag": "all" if values["attention_bias"] else "none"}
    form = SPELLINGS[values["hidden_act"]]
    shape = {
        "vocab_size": values["vocab_size"],
        "width": values["hidden_size"],
        **(GATES if family.gated else UNGATED_FORMS)[form],
        "feed_forward_width": values["intermediate_size"],
        "feed_forward_bias": values["mlp_bias"] if family.mlp_bias else False,
        "num_layers": layers,
        "num_heads": values["num_attention_heads"],
        "num_kv_heads": values.get("num_key_value_heads") or values["num_attention_heads"],
        "norm_eps": values["rms_norm_eps"],
        "tie_embeddings": values["tie_word_embeddings"],
        "padding_id": _padding(values),
        "attention_bias": biases[family.attention_bias],
        "sliding_window": _window(values, family)[0],
        **family.parts,
    }
    if values.get("head_dim"):
        shape["head_width"] = values["head_dim"]
    if family is FAMILIES["smollm3"]:
        shape["layers_without_rope"] = _without_rope(values) or None
    return shape


def _without_rope(values: Mapping[str, Any]) -> list[int]:
    """The layers of a SmolLM3 that turn nothing: 0 in no_rope_layers, else every fourth."""
    layers, turning = values["num_hidden_layers"], values.get("no_rope_layers")
    if not isinstance(layers, int):
        return []
    if isinstance(turning, list):
        return [layer for layer, turns in enumerate(turning[:layers]) if not turns]
    interval = values["no_rope_layer_interval"]
    return [layer for layer in range(layers) if (layer + 1) % interval == 0]


def _window(values: Mapping[str, Any], family: Family) -> tuple[Any, str]:
    """The window of all layers, or None; and the problem where some have it and others not."""
    window = values.get("sliding_window")
    if family.window == "none" or window is None:
        return None, ""
    if family.window == "all":
        return window, ""
    layers, kinds = values["num_hidden_layers"], values.get("layer_types")
    if not values["use_sliding_window"] or not isinstance(layers, int):
        return None, ""
    if isinstance(kinds, list):
        windowed = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
    elif family is FAMILIES["smollm3"]:
        windowed = _without_rope(values)
    else:
        first = values["max_window_layers"]
        windowed = [layer for layer in range(layers) if isinstance(first, int) and layer >= first]
    context = values["max_position_embeddings"]
    if not windowed or (isinstance(window, int) and isinstance(context, int) and window >= context):
        return None, ""
    if len(windowed) == layers:
        return window, ""
    return None, (
        f"sliding_window = {window!r} in {len(windowed)} of {layers} layers (only all or none is"
        f" supported; with a max_position_embeddings of at most {window!r} no window is needed)"
    )


def _unsupported(values: Mapping[str, Any], family: Family) -> Iterator[str]:
    """List what Puna would misread, as `key = value (rule)`."""
    forms = GATES if family.gated else UNGATED_FORMS
    activation = values["hidden_act"]
    if not isinstance(activation, str) or SPELLINGS.get(activation) not in forms:
        spelled = [spelling for spelling, form in SPELLINGS.items() if form in forms]
        yield (f"hidden_act = {activation!r} (only {', '.join(map(repr, spelled))} is supported)")
    for key in SWITCHES:
        if not isinstance(values[key], bool):
            yield f"{key} = {values[key]!r} (only true or false is supported)"
    for key in MULTIPLIERS if family is FAMILIES["granite"] else ():
        value = values.get(key, 1.0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            yield f"{key} = {value!r} (only a number above 0 is supported)"
    problem = _window(values, family)[1]
    if problem:
        yield problem
    turning, layers = values.get("no_rope_layers"), values.get("num_hidden_layers")
    if family is FAMILIES["smollm3"]:
        if isinstance(turning, list) and isinstance(layers, int) and len(turning) < layers:
            yield f"no_rope_layers has {len(turning)} entries for {layers} layers"
        interval = values["no_rope_layer_interval"]
        if not (isinstance(interval, int) and interval > 0):
            yield f"no_rope_layer_interval = {interval!r} (only a number above 0 is supported)"
    if not values.get("model_type") and not values.get("architectures"):
        telling = [key for key in TELLTALES if values.get(key) is not None]
        if telling:
            yield (
                f"no model_type and no architectures, but {telling[0]} ="
                f" {values[telling[0]]!r}, which is no key of a LLaMA: say the model_type"
            )


def _padding(values: Mapping[str, Any]) -> int | None:
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
        config = validate(ModelConfig, shape, origin)
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error
    sizes = {
        "vocab_size": config.vocab_size,
        "width": config.width,
        "num_heads times head_width": config.num_heads * config.head_width,
        "feed_forward_width": config.feed_forward_width,
    }
    for name, value in sizes.items():
        if value > WIDEST:
            raise ModelFolderError(f"{origin}: {name} is {value}, but at most {WIDEST} is possible")
    if config.context_length > LONGEST:
        raise ModelFolderError(
            f"{origin}: a context of {config.context_length} positions would fill the memory with"
            f" tables: set max_position_embeddings to {LONGEST} or less"
        )
    return config
