"""The model families of transformers that are LLaMA with other parts or other defaults: a line
each.

A family is a model_type of a config.json. Its line says what the keys that may be left out are
worth, and the parts that all its models have. Not here: reading and writing (huggingface.py), and
tensors that are stored in another form (folder_tensors.py). Source: the configuration and model
classes of transformers 5.24.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """One model_type.

    defaults: of keys that config.json may leave out, where they are not LlamaConfig's. parts: keys
    of `ModelConfig` that every model of the family has. attention_bias: `flag` where the key
    decides about all four projections. window: the key sliding_window counts in no layer, in all,
    or where use_sliding_window says so in those that layer_types names.
    """

    architecture: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = True
    attention_bias: Literal["none", "qkv", "flag"] = "none"
    mlp_bias: bool = False
    window: Literal["none", "all", "switched"] = "none"


LLAMA: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
    }
)
"""Values of keys that are left out, where their family does not say otherwise."""

QWEN: Mapping[str, Any] = MappingProxyType(
    {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("LlamaForCausalLM", attention_bias="flag", mlp_bias=True),
        "mistral": Family(
            "MistralForCausalLM",
            {
                "max_position_embeddings": 131072,
                "num_key_value_heads": 8,
                "sliding_window": 4096,
            },
            window="all",
        ),
        "qwen2": Family("Qwen2ForCausalLM", QWEN, attention_bias="qkv", window="switched"),
        "qwen3": Family(
            "Qwen3ForCausalLM",
            {**QWEN, "head_dim": 128},
            {"qk_norm": True},
            attention_bias="flag",
            window="switched",
        ),
        "smollm3": Family(
            "SmolLM3ForCausalLM",
            {
                "max_position_embeddings": 32768,
                "num_key_value_heads": 4,
                "rope_theta": 2000000.0,
                "tie_word_embeddings": True,
                "no_rope_layer_interval": 4,
            },
            attention_bias="flag",
            mlp_bias=True,
            window="switched",
        ),
        "olmo2": Family(
            "Olmo2ForCausalLM",
            {"rms_norm_eps": 1e-5},
            {"qk_norm": True, "qk_norm_over": "width", "placement": "reordered"},
            attention_bias="flag",
        ),
        "arcee": Family(
            "ArceeForCausalLM",
            {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "hidden_act": "relu2"},
            gated=False,
            attention_bias="flag",
            mlp_bias=True,
        ),
        # read only: its multipliers are folded into the weights, which are then LLaMA's
        "granite": Family("GraniteForCausalLM", attention_bias="flag", mlp_bias=True),
        # read only: its merged matrices are split
        "phi3": Family(
            "Phi3ForCausalLM",
            {
                "rms_norm_eps": 1e-5,
                "max_position_embeddings": 4096,
                "original_max_position_embeddings": 4096,
            },
            window="all",
        ),
    }
)
MULTIPLIERS = (
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
)
"""Granite's numbers, each 1.0 where it is left out."""
WRITTEN = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "arcee")
"""The families that are written, in the order in which they are tried."""

# hidden_act -> the form of the activation, in all spellings that transformers knows
SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_pytorch_tanh",
        "gelu_fast": "gelu_pytorch_tanh",
        "gelu_accurate": "gelu_pytorch_tanh",
        "gelu_python_tanh": "gelu_pytorch_tanh",
        "gelu_pytorch_tanh": "gelu_pytorch_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "relu2": "relu2",
        "sigmoid": "sigmoid",
        "linear": "linear",
    }
)
TANH, SIGMOID = {"gelu_approximate": "tanh"}, {"swish_beta": 1.702}
# the form of the gate's activation, or of an ungated layer's, as keys of ModelConfig; Hendrycks &
# Gimpel 2016 give 1.702 for quick_gelu
GATES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "silu": {"feed_forward": "swiglu"},
        "gelu": {"feed_forward": "geglu"},
        "gelu_pytorch_tanh": {"feed_forward": "geglu", **TANH},
        "quick_gelu": {"feed_forward": "swiglu", **SIGMOID},
        "relu": {"feed_forward": "reglu"},
        "sigmoid": {"feed_forward": "glu"},
        "linear": {"feed_forward": "bilinear"},
    }
)
UNGATED_FORMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "silu": {"feed_forward": "swish"},
        "gelu": {"feed_forward": "gelu"},
        "gelu_pytorch_tanh": {"feed_forward": "gelu", **TANH},
        "quick_gelu": {"feed_forward": "swish", **SIGMOID},
        "relu": {"feed_forward": "relu"},
        "relu2": {"feed_forward": "relu2"},
    }
)


def family_name(values: Mapping[str, Any]) -> Any:
    """The model_type of a config.json, or where it has none that of its architecture; `llama` where
    it has neither. What no family here is called is given back as it stands.
    """
    if values.get("model_type") is not None:
        return values["model_type"]
    architectures = values.get("architectures") or ["LlamaForCausalLM"]
    if not isinstance(architectures, list):
        return architectures
    of_architecture = {family.architecture: name for name, family in FAMILIES.items()}
    first = architectures[0]
    return of_architecture.get(first, first) if isinstance(first, str) else first
