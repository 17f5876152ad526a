"""The shape of a model, and the presets: published LLaMAs with their sources, and small ones to raise here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field, model_validator

from puna.config import Config, overlay
from puna.errors import ConfigError
from puna.nn.feed_forward import swiglu_hidden_size
from puna.nn.rope import Llama3Scaling


class RopeScaling(Config):
    """Llama 3.1's scaling of the rotary frequencies; see `puna.nn.rope.Llama3Scaling`."""

    factor: float = Field(default=8.0, ge=1)
    low_frequency_factor: float = Field(default=1.0, gt=0)
    high_frequency_factor: float = Field(default=4.0, gt=0)
    original_context: int = Field(default=8192, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> "RopeScaling":
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor {self.low_frequency_factor} must be below high_frequency_factor {self.high_frequency_factor}"
            )
        return self

    def build(self) -> Llama3Scaling:
        """The function that the rotary embedding takes."""
        return Llama3Scaling(**self.model_dump())


class ModelConfig(Config):
    """Everything that decides the shape of a LLaMA. Values left out are derived once, on construction, and then fixed.

    `preset` starts from a named shape; other keys given beside it replace its own.
    """

    preset: str | None = None
    vocab_size: int = Field(gt=0)
    width: int = Field(gt=0, description="D, the residual stream")
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0, description="H, query heads")
    num_kv_heads: int = Field(gt=0, description="K, key/value heads; left out: as many as query heads")
    head_width: int = Field(gt=0, description="C; left out: D / H")
    feed_forward_width: int = Field(gt=0, description="F; left out: the SwiGLU rule, rounded up to feed_forward_multiple")
    feed_forward_multiple: int = Field(default=256, gt=0)
    context_length: int = Field(default=2048, gt=0)
    rope_base: float = Field(default=10000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    norm_eps: float = Field(default=1e-5, gt=0)
    tie_embeddings: bool = False

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("preset") is not None:
            values = overlay(preset(values["preset"]), values)
        values = dict(values)
        width, heads = values.get("width"), values.get("num_heads")
        if isinstance(heads, int) and heads > 0:
            values.setdefault("num_kv_heads", heads)
            if isinstance(width, int) and "head_width" not in values:
                if width % heads:
                    raise ValueError(f"width {width} is not a multiple of num_heads {heads}; change one, or give head_width")
                values["head_width"] = width // heads
        if isinstance(width, int) and width > 0:
            multiple = values.get("feed_forward_multiple", 256)
            if isinstance(multiple, int) and multiple > 0:
                values.setdefault("feed_forward_width", swiglu_hidden_size(width, multiple))
        return values

    @model_validator(mode="after")
    def _possible(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"head_width {self.head_width} is odd, but rotary positions turn pairs of entries")
        return self


def preset(name: str) -> dict[str, Any]:
    """The values of a preset by name, as `ModelConfig` takes them. Raises ConfigError that lists the names."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def _shape(
    width: int, layers: int, heads: int, *, vocab: int = 32000, context: int = 2048, eps: float = 1e-5, **others: Any
) -> dict[str, Any]:
    shape = {"width": width, "num_layers": layers, "num_heads": heads, "vocab_size": vocab}
    return {**shape, "context_length": context, "norm_eps": eps, **others}


_LLAMA_3: dict[str, Any] = {"num_kv_heads": 8, "vocab": 128256, "rope_base": 500000.0}
_SCALED_8: dict[str, Any] = {"context": 131072, "rope_scaling": {"factor": 8.0}}
_SCALED_32: dict[str, Any] = {"context": 131072, "rope_scaling": {"factor": 32.0}, "tie_embeddings": True}
_SMALL: dict[str, Any] = {"tie_embeddings": True, "feed_forward_multiple": 32}

PRESETS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        # Touvron et al. 2023a, LLaMA, table 2; epsilon from the params.json of the release
        "llama-7b": _shape(4096, 32, 32, eps=1e-6),
        "llama-13b": _shape(5120, 40, 40, eps=1e-6),
        "llama-33b": _shape(6656, 60, 52, eps=1e-6),
        "llama-65b": _shape(8192, 80, 64),
        # Touvron et al. 2023b, Llama 2, table 1 and appendix A.2.1 (grouped queries at 70B); params.json of the release
        "llama-2-7b": _shape(4096, 32, 32, context=4096),
        "llama-2-13b": _shape(5120, 40, 40, context=4096),
        "llama-2-70b": _shape(8192, 80, 64, context=4096, num_kv_heads=8, feed_forward_width=28672),
        # Grattafiori et al. 2024, The Llama 3 Herd of Models, table 3; context and scaling from the params.json of the releases
        "llama-3-8b": _shape(4096, 32, 32, context=8192, feed_forward_width=14336, **_LLAMA_3),
        "llama-3-70b": _shape(8192, 80, 64, context=8192, feed_forward_width=28672, **_LLAMA_3),
        "llama-3.1-8b": _shape(4096, 32, 32, feed_forward_width=14336, **_LLAMA_3, **_SCALED_8),
        "llama-3.1-70b": _shape(8192, 80, 64, feed_forward_width=28672, **_LLAMA_3, **_SCALED_8),
        "llama-3.1-405b": _shape(16384, 126, 128, feed_forward_width=53248, **_LLAMA_3, **_SCALED_8),
        "llama-3.2-1b": _shape(2048, 16, 32, feed_forward_width=8192, **_LLAMA_3, **_SCALED_32),
        "llama-3.2-3b": _shape(3072, 28, 24, feed_forward_width=8192, **_LLAMA_3, **_SCALED_32),
        # To raise here. 15M, 42M and 110M have the shapes of Karpathy's llama2.c TinyStories models
        "puna-1m": _shape(128, 4, 4, vocab=2048, context=256, **_SMALL),
        "puna-2m": _shape(192, 4, 3, vocab=2048, context=256, **_SMALL),
        "puna-4m": _shape(256, 4, 4, vocab=4096, context=512, **_SMALL),
        "puna-15m": _shape(288, 6, 6, context=256, **_SMALL),
        "puna-42m": _shape(512, 8, 8, context=1024, **_SMALL),
        "puna-110m": _shape(768, 12, 12, context=1024, **_SMALL),
    }
)
