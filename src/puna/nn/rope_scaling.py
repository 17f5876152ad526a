"""Five ways to stretch rotary frequencies, so that a model trained on short texts reads longer
ones: one small class each.

Each turns the frequencies theta_i of `rope_frequencies`, fastest first, into those to use. They
differ in which frequencies give way: all alike (`LinearScaling`), the slower the more
(`NTKScaling`), only those too slow to have made a full turn in training (`Llama3Scaling`,
`YaRNScaling`), or each by a number of its own (`ListedScaling`). Not here: scalings that follow the
length of the sequence at hand; a key cached under one stretching is wrong under the next. Costs
nothing per step: the tables are filled once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class FrequencyScaling(Protocol):
    """A scaling as `RotaryEmbedding` takes it: a function of frequencies, and a factor on every cos
    and sin.
    """

    @property
    def attention_factor(self) -> float:
        """Multiplies cos and sin, and so q and k: scores grow by its square. 1 leaves them
        alone.
        """
        ...

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        """The stretched frequencies."""
        ...


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise ValueError(
            f"a scaling factor of {factor} shortens the context: it is the new context over the"
            " old, at least 1"
        )


@dataclass(frozen=True)
class LinearScaling:
    """theta_i / factor: position interpolation, the same as dividing every position by `factor`.

    A context `factor` times longer is squeezed into the angles seen in training. Neighbours come
    closer together too, which is why it wants fine-tuning.

    Source: Chen et al. 2023, Extending Context Window of Large Language Models via Position
    Interpolation, section 2.3. Usual mistake: multiplying the frequencies.
    """

    factor: float
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        return frequencies / self.factor


@dataclass(frozen=True)
class NTKScaling:
    """theta_i factor^(-2i/(C-2)): the frequencies of the larger base factor^(C/(C-2)) base.

    The fastest frequency, i = 0, stays, so neighbours remain apart; the slowest, i = C/2 - 1, is
    divided by the whole factor, as in `LinearScaling`; those between give way evenly in the
    exponent. Works without fine-tuning, for somewhat less than `factor` times the context, because
    all but the last are divided by less. This is the static form, the same at every length.

    Source: bloc97 2023, NTK-Aware Scaled RoPE; written up in Peng et al. 2023, YaRN, section 3.1.
    Usual mistake: factor^(C/(C-2)) as a factor of the frequencies, where it belongs to the base.
    """

    factor: float
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        # 2i / (C - 2)
        exponent = torch.linspace(0, 1, frequencies.numel(), device=frequencies.device)
        return frequencies * self.factor**-exponent


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the frequencies, for contexts longer than the `original_context` of
    pretraining.

    With wavelength w = 2 pi / theta: w < original/high keeps theta; w > original/low divides it by
    `factor`; between the two, (1-s) theta/factor + s theta with s = (original/w - low) / (high -
    low).

    Source: Llama 3.1's published code (apply_scaling); Grattafiori et al. 2024, The Llama 3 Herd of
    Models, section 3.4.2. Usual mistake: comparing frequencies instead of wavelengths, which swaps
    the two ends.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if not 0 < low < high:
            raise ValueError(
                f"Llama 3 scaling blends from low {low} to high {high} turns: give 0 <"
                " low_frequency_factor < high_frequency_factor"
            )

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        # full turns within the original context
        turns = self.original_context * frequencies / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1 keeps, 0 divides, between blends
        return kept * frequencies + (1 - kept) * frequencies / self.factor


@dataclass(frozen=True)
class YaRNScaling:
    """Keeps what makes more than `beta_fast` turns in the original context, divides what makes
    fewer than `beta_slow`, blends between.

    The index at which a frequency of base b makes n turns in L positions is i(n) = C ln(L / (2 pi
    n)) / (2 ln b). With low = floor(i(beta_fast)) and high = ceil(i(beta_slow)), held within [0,
    C-1], and r = (i - low) / (high - low) held within [0, 1]: (1-r) theta_i + r theta_i / factor.
    Besides, cos and sin are multiplied by `mscale`, left out 0.1 ln(factor) + 1, which sharpens the
    softmax over the many more keys at no cost per step. truncate: round low and high to whole
    indices; gpt-oss does not.

    `base` must be the one that the frequencies were made with, and is checked.

    Source: Peng et al. 2023, YaRN, sections 3.2 and 3.4 and its published code. The paper blends
    linearly in the number of turns, as `Llama3Scaling` does; its code, and so every published
    model, linearly in the index between whole bounds, as here. Usual mistakes: leaving out the
    factor on cos and sin; applying it to q k^T, where it counts once and not twice.
    """

    factor: float
    original_context: int
    base: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"YaRN blends from beta_slow {self.beta_slow} to beta_fast {self.beta_fast} turns:"
                " give 0 < slow < fast"
            )

    @property
    def attention_factor(self) -> float:
        """`mscale`, or 0.1 ln(factor) + 1."""
        return 0.1 * math.log(self.factor) + 1 if self.mscale is None else self.mscale

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        half = frequencies.numel()
        # theta_1 = base^(-2/C) with half = C/2: one frequency is enough to tell the base
        second = self.base ** (-1 / half)
        if half > 1 and not math.isclose(float(frequencies[1]), second, rel_tol=1e-6):
            raise ValueError(
                f"YaRN was built for base {self.base:g}, but these frequencies have another: give"
                " both the same"
            )
        # Fewer turns are slower, at a higher index: beta_fast gives the lower bound
        low, high = self._index(self.beta_fast, half), self._index(self.beta_slow, half)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        index = torch.arange(half, dtype=torch.float32, device=frequencies.device)
        # 0 keeps, 1 divides, between blends; 0.001 where the bounds meet, as in the published code
        divided = ((index - low) / (high - low or 0.001)).clamp(0, 1)
        return (1 - divided) * frequencies + divided * frequencies / self.factor

    def _index(self, turns: float, half: int) -> float:
        """i(n) above: where in the frequencies this number of turns stands, as a fraction."""
        return half * math.log(self.original_context / (2 * math.pi * turns)) / math.log(self.base)


@dataclass(frozen=True)
class ListedScaling:
    """theta_i / factors_i, with cos and sin multiplied by `mscale`: LongRoPE's form, whose numbers
    a search has found.

    Published models carry two lists, for texts up to the context of pretraining and beyond; a
    model has one here, because a key cached under one list is wrong under the other.

    Source: Ding et al. 2024, LongRoPE, section 3.2; Phi-3's published configuration. Usual mistake:
    multiplying the frequencies.
    """

    factors: Sequence[float]
    mscale: float = 1.0

    def __post_init__(self) -> None:
        if not all(factor > 0 for factor in self.factors):
            raise ValueError(
                f"factors {list(self.factors)} divide frequencies: give numbers above 0"
            )

    @property
    def attention_factor(self) -> float:
        """`mscale`."""
        return self.mscale

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        if len(self.factors) != frequencies.numel():
            raise ValueError(
                f"{len(self.factors)} factors for {frequencies.numel()} frequencies: give one for"
                " each, half the head width"
            )
        return frequencies / torch.tensor(self.factors, device=frequencies.device)
