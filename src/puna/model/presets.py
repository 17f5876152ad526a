"""The presets: published LLaMAs with their sources, and small ones to train here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from puna.errors import ConfigError


def preset(name: str) -> dict[str, Any]:
    """The values of a preset by name, as `ModelConfig` takes them. Raises ConfigError that lists
    the names.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def _shape(
    width: int,
    layers: int,
    heads: int,
    *,
    vocab: int = 32000,
    context: int = 2048,
    eps: float = 1e-5,
    **others: Any,
) -> dict[str, Any]:
    shape = {"width": width, "num_layers": layers, "num_heads": heads, "vocab_size": vocab}
    return {**shape, "context_length": context, "norm_eps": eps, **others}


_LLAMA_3: dict[str, Any] = {"num_kv_heads": 8, "vocab": 128256, "rope_base": 500000.0}
_SCALED_8: dict[str, Any] = {"context": 131072, "rope_scaling": {"factor": 8.0}}
_SCALED_32: dict[str, Any] = {
    "context": 131072,
    "rope_scaling": {"factor": 32.0},
    "tie_embeddings": True,
}
_SMALL: dict[str, Any] = {"tie_embeddings": True, "feed_forward_multiple": 32}

PRESETS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        # Touvron et al. 2023a, LLaMA, table 2; epsilon from the params.json of the release, padding
        # from its first conversion
        "llama-7b": _shape(4096, 32, 32, eps=1e-6, padding_id=0),
        "llama-13b": _shape(5120, 40, 40, eps=1e-6, padding_id=0),
        "llama-33b": _shape(6656, 60, 52, eps=1e-6, padding_id=0),
        "llama-65b": _shape(8192, 80, 64, padding_id=0),
        # Touvron et al. 2023b, Llama 2, table 1 and appendix A.2.1 (grouped queries at 70B);
        # params.json of the release
        "llama-2-7b": _shape(4096, 32, 32, context=4096),
        "llama-2-13b": _shape(5120, 40, 40, context=4096),
        "llama-2-70b": _shape(8192, 80, 64, context=4096, num_kv_heads=8, feed_forward_width=28672),
        # Grattafiori et al. 2024, The Llama 3 Herd of Models, table 3; context and scaling from the
        # params.json of the releases
        "llama-3-8b": _shape(4096, 32, 32, context=8192, feed_forward_width=14336, **_LLAMA_3),
        "llama-3-70b": _shape(8192, 80, 64, context=8192, feed_forward_width=28672, **_LLAMA_3),
        "llama-3.1-8b": _shape(4096, 32, 32, feed_forward_width=14336, **_LLAMA_3, **_SCALED_8),
        "llama-3.1-70b": _shape(8192, 80, 64, feed_forward_width=28672, **_LLAMA_3, **_SCALED_8),
        "llama-3.1-405b": _shape(
            16384, 126, 128, feed_forward_width=53248, **_LLAMA_3, **_SCALED_8
        ),
        "llama-3.2-1b": _shape(2048, 16, 32, feed_forward_width=8192, **_LLAMA_3, **_SCALED_32),
        "llama-3.2-3b": _shape(3072, 28, 24, feed_forward_width=8192, **_LLAMA_3, **_SCALED_32),
        # To train here. 15M, 42M and 110M have the shapes of Karpathy's llama2.c TinyStories models
        "puna-1m": _shape(128, 4, 4, vocab=2048, context=256, **_SMALL),
        "puna-2m": _shape(192, 4, 3, vocab=2048, context=256, **_SMALL),
        "puna-4m": _shape(256, 4, 4, vocab=4096, context=512, **_SMALL),
        "puna-15m": _shape(288, 6, 6, context=256, **_SMALL),
        "puna-42m": _shape(512, 8, 8, context=1024, **_SMALL),
        "puna-110m": _shape(768, 12, 12, context=1024, **_SMALL),
    }
)
