"""The shape of a model, and the presets: published LLaMAs with their sources, and small ones to
raise here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from puna.config import Config, overlay
from puna.errors import ConfigError
from puna.model.parts import ADDED, BIASED, GATED, NORMS, PLACEMENTS, ROPE_SCALINGS, ROTARY, UNGATED
from puna.nn.feed_forward import swiglu_hidden_size
from puna.nn.rope_scaling import FrequencyScaling


def _named(table: Iterable[str]) -> AfterValidator:
    """Only a name of this table; the error lists them."""
    names = tuple(table)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"there is no {name!r}; choose one of {', '.join(names)}")
        return name

    return AfterValidator(check)


class RopeScaling(Config):
    """A scaling of the rotary frequencies: a `kind` of `puna.model.parts.ROPE_SCALINGS`, and the
    numbers that this kind takes.
    """

    kind: Annotated[str, _named(ROPE_SCALINGS)] = "llama3"
    factor: float = Field(default=8.0, ge=1)
    original_context: int | None = Field(default=None, gt=0)
    low_frequency_factor: float | None = Field(default=None, gt=0)
    high_frequency_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, values: Any) -> Any:
        """Fill in what the kind takes and the values lack; refuse what it does not take."""
        kind = values.get("kind", "llama3") if isinstance(values, dict) else ""
        if kind not in ROPE_SCALINGS:
            return values
        taken = {
            field.name: field.default
            for field in fields(ROPE_SCALINGS[kind])
            if field.name in cls.model_fields
        }
        foreign = [
            name
            for name, value in values.items()
            if name in cls.model_fields
            and name != "kind"
            and value is not None
            and name not in taken
        ]
        if foreign:
            raise ValueError(
                f"{', '.join(foreign)} means nothing to {kind}, which takes {', '.join(taken)}"
            )
        lacking = [
            name
            for name, default in taken.items()
            if default is MISSING and values.get(name) is None and name != "factor"
        ]
        if lacking:
            raise ValueError(f"{kind} requires {', '.join(lacking)}")
        return {
            **{name: default for name, default in taken.items() if default is not MISSING},
            **values,
        }

    @model_validator(mode="after")
    def _ordered(self) -> "RopeScaling":
        for low, high in (
            ("low_frequency_factor", "high_frequency_factor"),
            ("beta_slow", "beta_fast"),
        ):
            below, above = getattr(self, low), getattr(self, high)
            if below is not None and above is not None and below >= above:
                raise ValueError(f"{low} {below} must be below {high} {above}")
        return self

    def build(self, base: float) -> FrequencyScaling:
        """The function that the rotary embedding takes; base: of the frequencies that it will
        scale.
        """
        values = {**self.model_dump(exclude={"kind"}, exclude_none=True), "base": base}
        scaling = ROPE_SCALINGS[self.kind]
        return scaling(**{field.name: values[field.name] for field in fields(scaling)})


class ModelConfig(Config):
    """Everything that decides the shape of the decoder. Values left out are derived once, on
    construction, and then fixed.

    `preset` starts from a named shape; other keys given beside it replace its own. The defaults are
    LLaMA's parts.
    """

    preset: str | None = None
    vocab_size: int = Field(gt=0)
    width: int = Field(gt=0, description="D, the residual stream")
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0, description="H, query heads")
    num_kv_heads: int = Field(
        gt=0, description="K, key/value heads; left out: as many as query heads"
    )
    head_width: int = Field(gt=0, description="C; left out: D / H")
    context_length: int = Field(default=2048, gt=0)
    tie_embeddings: bool = False
    padding_id: int | None = Field(
        default=None, ge=0, description="an id whose embedding is never trained"
    )

    norm: Annotated[str, _named(NORMS)] = "rmsnorm"
    norm_eps: float = Field(default=1e-5, gt=0)
    norm_eps_place: Literal["inside", "outside"] = Field(
        default="inside", description="of the root"
    )
    norm_bias: bool = Field(description="left out: for layernorm only")
    norm_fraction: float = Field(
        gt=0,
        le=1,
        description=(
            "share of the entries that the statistic reads; left out: prmsnorm 0.0625, else 1"
        ),
    )
    norm_rounding: Literal["floor", "ceil"] = Field(
        default="floor", description="of the number of those entries"
    )
    placement: Annotated[str, _named(PLACEMENTS)] = "pre"

    feed_forward: Annotated[str, _named((*UNGATED, *GATED))] = "swiglu"
    feed_forward_width: int = Field(
        gt=0, description="F; left out: 4 D, or the SwiGLU rule where it is gated"
    )
    feed_forward_multiple: int = Field(
        default=256, gt=0, description="what the SwiGLU rule rounds up to"
    )
    feed_forward_bias: bool = False
    swish_beta: float | Literal["scalar", "channel"] = Field(
        default=1.0, description="a number, or how many to learn"
    )

    position: Annotated[str, _named((*ROTARY, *ADDED, *BIASED, "none"))] = "rope"
    rope_base: float = Field(default=10000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    qk_norm: bool = Field(
        default=False, description="normalise queries and keys, each head by itself"
    )
    sliding_window: int | None = Field(
        default=None,
        gt=0,
        description="positions that a query sees, itself included; left out: all",
    )

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
                    raise ValueError(
                        f"width {width} is not a multiple of num_heads {heads}; change one, or give"
                        " head_width"
                    )
                values["head_width"] = width // heads
        if isinstance(width, int) and width > 0:
            multiple = values.get("feed_forward_multiple", 256)
            if values.get("feed_forward") in UNGATED:
                values.setdefault("feed_forward_width", 4 * width)
            elif isinstance(multiple, int) and multiple > 0:
                values.setdefault("feed_forward_width", swiglu_hidden_size(width, multiple))
        values.setdefault("norm_bias", values.get("norm") == "layernorm")
        values.setdefault("norm_fraction", 0.0625 if values.get("norm") == "prmsnorm" else 1.0)
        return values

    @model_validator(mode="after")
    def _possible(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        broken = [reason for possible, reason in self._rules() if not possible]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def _rules(self) -> Iterator[tuple[bool, str]]:
        """What must hold between the parts, each with what to say where it does not."""
        rotary, root_mean_square = self.position in ROTARY, self.norm in ("rmsnorm", "prmsnorm")
        yield (
            not rotary or self.head_width % 2 == 0,
            f"head_width {self.head_width} is odd, but rotary positions turn pairs of entries",
        )
        yield (
            rotary or self.rope_scaling is None,
            f"rope_scaling scales rotary positions, but position is {self.position}: leave it out",
        )
        yield (
            self.position != "sinusoidal" or self.width % 2 == 0,
            f"width {self.width} is odd, but sinusoidal positions are pairs of a sine and a cosine",
        )
        yield (
            root_mean_square or self.norm_eps_place == "inside",
            f"norm_eps_place outside is for rmsnorm and prmsnorm, not for {self.norm}",
        )
        yield (
            root_mean_square or self.norm == "layernorm" or not self.norm_bias,
            f"{self.norm} has no bias: leave norm_bias out",
        )
        yield (
            self.norm == "prmsnorm" or self.norm_fraction == 1,
            f"norm_fraction is for prmsnorm, not for {self.norm}",
        )
        yield (
            self.norm == "prmsnorm" or self.norm_rounding == "floor",
            f"norm_rounding is for prmsnorm, not for {self.norm}",
        )
        entries = min(self.width, self.head_width) if self.qk_norm else self.width
        yield (
            self.norm_rounding == "ceil" or entries * self.norm_fraction >= 1,
            (
                f"norm_fraction {self.norm_fraction} of {entries} entries is less than one: raise"
                f" it to {1 / entries:g} or more"
            ),
        )
        yield (
            self.norm != "none" or not self.qk_norm,
            "qk_norm normalises with the model's norm, but norm is none",
        )
        yield (
            self.feed_forward in ("swish", "swiglu") or self.swish_beta == 1,
            f"swish_beta is for swish and swiglu, not for {self.feed_forward}",
        )
        yield (
            self.padding_id is None or self.padding_id < self.vocab_size,
            f"padding_id {self.padding_id} is not below vocab_size {self.vocab_size}",
        )


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
        # To raise here. 15M, 42M and 110M have the shapes of Karpathy's llama2.c TinyStories models
        "puna-1m": _shape(128, 4, 4, vocab=2048, context=256, **_SMALL),
        "puna-2m": _shape(192, 4, 3, vocab=2048, context=256, **_SMALL),
        "puna-4m": _shape(256, 4, 4, vocab=4096, context=512, **_SMALL),
        "puna-15m": _shape(288, 6, 6, context=256, **_SMALL),
        "puna-42m": _shape(512, 8, 8, context=1024, **_SMALL),
        "puna-110m": _shape(768, 12, 12, context=1024, **_SMALL),
    }
)
