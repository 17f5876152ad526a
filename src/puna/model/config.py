"""The shape of a model. No torch: a configuration is read, checked and hashed without it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from puna.choices import ChoosingConfig, Table, named, with_options
from puna.model.parts import (
    ADDED,
    FEED_FORWARDS,
    GATED,
    INITS,
    NORMS,
    PLACEMENTS,
    POSITIONS,
    ROPE_SCALINGS,
    ROTARY,
)
from puna.model.presets import preset


class RopeScaling(ChoosingConfig):
    """A scaling of the rotary frequencies: a `kind` of `puna.model.parts.ROPE_SCALINGS`, and the
    numbers that this kind takes.
    """

    families: ClassVar[dict[str, Table]] = {"kind": ROPE_SCALINGS}
    late_options: ClassVar[frozenset[str]] = frozenset({"mscale", "truncate", "factors"})

    kind: Annotated[str, named(ROPE_SCALINGS)] = "llama3"
    factor: float = Field(default=8.0, ge=1)
    original_context: int | None = Field(default=None, gt=0)
    low_frequency_factor: float | None = Field(default=None, gt=0)
    high_frequency_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    mscale: float | None = Field(
        default=None, gt=0, description="factor on cos and sin; left out: as the kind has it"
    )
    truncate: bool = Field(default=True, description="round the bounds of the blend")
    factors: tuple[float, ...] | None = Field(
        default=None, strict=False, description="divisors of the frequencies, fastest first"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, values: Any) -> Any:
        return cls.with_defaults(values) if isinstance(values, dict) else values

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


@with_options
class ModelConfig(ChoosingConfig):
    """Everything that decides the shape of the decoder. Values left out are derived once, on
    construction, and then fixed.

    `preset` starts from a named shape; other keys given beside it replace its own. The defaults are
    LLaMA's parts. What the chosen parts ignore is rejected where it was given (`ChoosingConfig`).
    """

    families: ClassVar[dict[str, Table]] = {
        "norm": NORMS,
        "placement": PLACEMENTS,
        "feed_forward": FEED_FORWARDS,
        "position": POSITIONS,
        "init": INITS,
    }
    late_options: ClassVar[frozenset[str]] = frozenset(
        {
            "attention",
            "scale_embeddings",
            "init",
            "init_std",
            "scale_residual_init",
            "zero_residual_init",
            "embedding_std",
            "attention_bias",
            "qk_norm_over",
            "layers_without_rope",
            "rope_fraction",
            "gelu_approximate",
        }
    )

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
    scale_embeddings: bool | None = Field(
        default=None, description="multiply them by sqrt(D); left out: where sines are added"
    )
    padding_id: int | None = Field(
        default=None, ge=0, description="an id whose embedding is never trained"
    )

    norm: Annotated[str, named(NORMS)] = "rmsnorm"
    norm_eps: float = Field(default=1e-5, gt=0)
    norm_eps_place: Literal["inside", "outside"] = Field(
        default="inside", description="of the root"
    )
    norm_bias: bool = Field(default=False, description="left out: layernorm has one")
    norm_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the entries that the statistic reads; left out: prmsnorm 0.0625",
    )
    norm_rounding: Literal["floor", "ceil"] = Field(
        default="floor", description="of the number of those entries"
    )
    placement: Annotated[str, named(PLACEMENTS)] = "pre"

    feed_forward: Annotated[str, named(FEED_FORWARDS)] = "swiglu"
    feed_forward_width: int = Field(
        gt=0, description="F; left out: as many parameters as an ungated layer has with 4 D"
    )
    feed_forward_multiple: int = Field(
        default=256, gt=0, description="what the SwiGLU rule rounds up to"
    )
    feed_forward_bias: bool = False
    gelu_approximate: Literal["none", "tanh"] = "none"
    swish_beta: float | Literal["scalar", "channel"] = Field(
        default=1.0, description="a number, or how many to learn"
    )

    position: Annotated[str, named(POSITIONS)] = "rope"
    rope_base: float = Field(default=10000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    rope_fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of each head's entries that are turned"
    )
    layers_without_rope: tuple[int, ...] | None = Field(
        default=None, strict=False, description="numbers of the layers that turn nothing, from 0"
    )
    attention: Literal["none"] | None = Field(
        default=None,
        description="none: blocks of a convolution alone; left out: causal self-attention",
    )
    attention_bias: Literal["none", "qkv", "all"] = Field(
        default="none", description="biases of q, k and v, or of the output too"
    )
    qk_norm: bool = Field(default=False, description="normalise queries and keys")
    qk_norm_over: Literal["head", "width"] = Field(
        default="head", description="each head by itself, or all at once"
    )
    sliding_window: int | None = Field(
        default=None,
        gt=0,
        description="positions that a query sees, itself included; left out: all",
    )

    init: Annotated[str, named(INITS)] = Field(
        default="normal", description="standard deviations of the weights that training starts from"
    )
    init_std: float = Field(default=0.02, gt=0, description="of all weights that init normal fills")
    scale_residual_init: bool = Field(
        default=True, description="divide what writes into the residual stream by sqrt(2 L)"
    )
    zero_residual_init: bool = Field(
        default=False, description="start what writes into the residual stream at 0"
    )
    embedding_std: float | None = Field(
        default=None, gt=0, description="of the embeddings at the start; left out: as init has it"
    )

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # What is given counts over the preset, the preset over what is derived here
        start = preset(values["preset"]) if values.get("preset") is not None else {}
        values = cls.with_defaults(values, start)
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
            values.setdefault("feed_forward_width", cls._feed_forward_width(width, values))
        return values

    @classmethod
    def _feed_forward_width(cls, width: int, values: Mapping[str, Any]) -> int:
        """The F with which the layer has the 8 D^2 parameters of an ungated one of width 4 D; a
        gated or convolutional one has a few more.
        """
        name = values.get("feed_forward", "swiglu")
        multiple = values.get("feed_forward_multiple", 256)
        kernel = values.get("feed_forward_kernel")
        if name in tuple(GATED) and isinstance(multiple, int) and multiple > 0:
            from puna.nn.feed_forward import swiglu_hidden_size  # brings torch

            return swiglu_hidden_size(width, multiple)
        if name == "self_gated":
            return 2 * width  # 2 D F + F^2 = 8 D^2
        if name == "convolution" and isinstance(kernel, int) and kernel > 0:
            return -(-8 * width // (2 * kernel + 1))  # (2 k + 1) D F = 8 D^2
        return 4 * width

    def _rules_without_attention(self) -> Iterator[tuple[bool, str]]:
        """Rules for a model of feed-forward blocks alone."""
        without = self.attention == "none"
        yield (
            not without or self.lookback > 0,
            f"attention none with feed_forward {self.feed_forward} sees one position: choose"
            " convolution with a feed_forward_kernel above 1",
        )
        yield (
            not without or self.placement == "parallel",
            f"placement {self.placement} has norms for an attention sublayer, but attention is"
            " none: choose parallel, whose one norm is the convolution's",
        )
        yield (
            not without or self.position in ("none", *ADDED),
            f"position {self.position} works in attention, but attention is none: choose none,"
            f" {' or '.join(ADDED)}",
        )
        yield (
            not without
            or (not self.qk_norm and self.sliding_window is None and self.attention_bias == "none"),
            "qk_norm, sliding_window and attention_bias mean nothing with attention none: leave"
            " them out",
        )

    def _rules_of_rotation(self) -> Iterator[tuple[bool, str]]:
        """Rules for what turns queries and keys."""
        skipped, scaling = self.layers_without_rope, self.rope_scaling
        turned = int(self.head_width * self.rope_fraction)
        yield (
            self.position not in ROTARY or (turned % 2 == 0 and turned > 0),
            f"head_width {self.head_width} is odd, but rotary positions turn pairs of entries"
            if turned == self.head_width
            else f"rope_fraction {self.rope_fraction} of head_width {self.head_width} is {turned},"
            " but rotary positions turn pairs of entries",
        )
        yield (
            skipped is None or self.position in ROTARY,
            f"layers_without_rope means nothing with position {self.position}: leave it out",
        )
        yield (
            all(0 <= layer < self.num_layers for layer in skipped or ()),
            f"layers_without_rope {list(skipped or ())} names layers beyond 0 to"
            f" {self.num_layers - 1}",
        )
        factors = scaling.factors if scaling else None
        yield (
            factors is None or 2 * len(factors) == turned,
            f"rope_scaling.factors has {len(factors or ())} numbers for {turned // 2} frequencies:"
            " give one for each",
        )

    @property
    def embedding_scale(self) -> float:
        """The factor on the embeddings. Vaswani et al. 2017, section 3.4: sqrt(D), or sines of
        amplitude 1 would drown them.
        """
        scaled = self.scale_embeddings
        return (
            self.width**0.5
            if (self.position == "sinusoidal" if scaled is None else scaled)
            else 1.0
        )

    @property
    def cached_heads(self) -> int:
        """Heads whose keys and values a cache keeps: K, or none without attention."""
        return 0 if self.attention == "none" else self.num_kv_heads

    @property
    def lookback(self) -> int:
        """Earlier positions whose input a feed-forward layer sees beside its own."""
        return (getattr(self, "feed_forward_kernel", None) or 1) - 1

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
        """Rules between the parts, each with the message for where it does not hold."""
        yield from self._rules_of_rotation()
        yield (
            self.position != "sinusoidal" or self.width % 2 == 0,
            f"width {self.width} is odd, but sinusoidal positions are pairs of a sine and a cosine",
        )
        entries = min(self.width, self.head_width) if self.qk_norm else self.width
        yield (
            self.norm != "prmsnorm"
            or self.norm_rounding == "ceil"
            or entries * self.norm_fraction >= 1,
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
            self.qk_norm or self.qk_norm_over == "head",
            f"qk_norm_over {self.qk_norm_over} means nothing without qk_norm: set qk_norm to true",
        )
        yield (
            self.init != "mup" or not self.tie_embeddings,
            "init mup starts embeddings at 1 and the output layer at 1/D, but tie_embeddings makes"
            " them one: set it to false, or choose fan_in",
        )
        yield from self._rules_without_attention()
        yield (
            self.padding_id is None or self.padding_id < self.vocab_size,
            f"padding_id {self.padding_id} is not below vocab_size {self.vocab_size}",
        )
