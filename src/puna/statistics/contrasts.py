"""Contrasts: questions about several arms at once, such as gated against ungated or an interaction,
each tested over the seeds.

Not here: each arm against the baseline (paired.py).

A contrast is sum of w_k m_k with weights w that sum to 0, so that what all arms share drops out; a
term m_k is the mean, or the best, of some arms' runs of one seed. It has one value a seed, and
Student's t over these n values, with n - 1 degrees of freedom, is exact for normal runs however
unequal the arms' spreads and whatever a seed does to all of them: it uses the contrast's own spread
and nothing else (an analysis of variance would pool; two_way.py).

- Gated against ungated, at three activations: +1 mean of the gated three, -1 mean of the others.
- An interaction, (a1 - a0) - (b1 - b0): weights +1, -1, -1, +1. Does a change help A more than B?
- The best of the rates: `pick="best"` takes, at each seed, the best run of a term's arms.

Usual mistakes: reading an interaction off two verdicts, one decided and one not, which may differ
by nothing; and one term picking the best of more arms than another, since the best of four equal
arms is better than one of them by 1.03 of their standard deviations, whatever they are.

Source: Scheffé 1959, The Analysis of Variance, chapter 3; Gelman and Stern 2006, The
Difference Between "Significant" and "Not Significant" is not Itself Statistically Significant.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from puna.errors import ConfigError
from puna.statistics.one_sample import mean_tests
from puna.statistics.paired import detectable_effect, holm
from puna.statistics.run_table import Runs, RunTable, run_table


@dataclass(frozen=True)
class Term:
    """`weight` times the mean, or the best, of the runs of `arms` that share a seed."""

    weight: float
    arms: tuple[str, ...]
    pick: Literal["mean", "best"] = "mean"

    def __post_init__(self) -> None:
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ConfigError(
                f"a term of a contrast has the arms {list(self.arms)}: name at least one, and each"
                " once"
            )
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ConfigError(
                f"the weight of {', '.join(self.arms)} is {self.weight}: give a finite number that"
                " is not 0, or leave the term out"
            )


@dataclass(frozen=True)
class Contrast:
    """A named sum of terms, the weights of which sum to 0. Raises ConfigError where they do not."""

    name: str
    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        weights = [term.weight for term in self.terms]
        # 1/3 + 1/3 + 1/3 - 1 is 0 but for rounding
        if not weights or abs(math.fsum(weights)) > 1e-9 * max(map(abs, weights)):
            raise ConfigError(
                f"the weights of the contrast {self.name!r} sum to {math.fsum(weights):g}: they"
                " must sum to 0, so that what all arms share drops out, such as 1 and -1"
            )

    @classmethod
    def of_arms(cls, name: str, weights: Mapping[str, float]) -> Self:
        """The linear contrast with a weight for each arm."""
        return cls(name, tuple(Term(weight, (arm,)) for arm, weight in weights.items()))

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it reads, once."""
        return tuple(dict.fromkeys(arm for term in self.terms for arm in term.arms))

    def evaluate(
        self, runs: Mapping[str, NDArray[np.float64]], *, lower_is_better: bool
    ) -> NDArray[np.float64]:
        """The value at each place of arrays of one shape, by arm; a diverged run is nan.

        nan where a mean term has a diverged run, or all runs of a best term diverged: one that
        diverged is never the best.
        """
        # of nan and a number, fmin and fmax give the number
        best = np.fmin if lower_is_better else np.fmax
        parts = []
        for term in self.terms:
            of_term = np.stack([runs[arm] for arm in term.arms])
            picked = of_term.mean(axis=0) if term.pick == "mean" else best.reduce(of_term, axis=0)
            parts.append(term.weight * picked)
        total: NDArray[np.float64] = np.sum(parts, axis=0)
        return total


@dataclass(frozen=True)
class ContrastTest:
    """The one-sample t test of a contrast's values over the seeds, as in one_sample.py.

    The interval is the contrast's own, not adjusted for the others. `detectable`: the true contrast
    that such a study, with this spread, finds in 80 of 100 repetitions, at alpha for the primary
    one and at Holm's first level, alpha / tests in the family, for the others.
    """

    values: tuple[float, ...]  # in the order of the seeds
    estimate: float
    standard_deviation: float
    confidence_interval: tuple[float, float]
    p_value: float
    adjusted_p_value: float
    detectable: float


@dataclass(frozen=True)
class ContrastResult:
    """A contrast and what the runs say. `test` is None where a seed has no value of it.

    found: its adjusted p-value is below alpha. diverged: runs of its arms that have no value; the
    runs of a best term are among them, and leave it testable.
    """

    contrast: Contrast
    is_primary: bool
    found: bool
    diverged: int
    test: ContrastTest | None


def analyse_contrasts(
    values: Runs,
    contrasts: Sequence[Contrast],
    alpha: float,
    primary: str | None = None,
    *,
    lower_is_better: bool = True,
) -> tuple[ContrastResult, ...]:
    """Every contrast in the order given, with intervals of the level 1 - alpha.

    The primary one, named before the runs, is tested at alpha by itself; all others are secondary,
    with Holm's adjustment among themselves. So the chance of a false call is at most alpha for the
    primary and at most alpha for any of the secondary, not alpha for both together. Without a
    primary one Holm's family is all of them. One that cannot be tested stays in its family as if
    its p-value were 1: how much was asked does not depend on the answers.

    Raises ConfigError for an arm or a primary contrast that does not exist, and for a name that is
    there twice.
    """
    table = run_table(values)
    check_contrasts(contrasts, table.arms, primary)
    if not contrasts:
        return ()
    runs = table.by_arm
    samples = np.stack(
        [one.evaluate(runs, lower_is_better=lower_is_better) for one in contrasts]
    )  # [contrasts, seeds]
    found = mean_tests(samples, alpha)
    p_values = np.where(np.isnan(samples).any(axis=1), 1.0, found.p_value)
    families = families_of(contrasts, primary)
    adjusted, level = np.empty(len(contrasts)), np.empty(len(contrasts))
    for family in families:
        adjusted[family], level[family] = holm(p_values[family]), alpha / len(family)
    results = []
    for row, contrast in enumerate(contrasts):
        spread = float(found.standard_deviation[row])
        test = ContrastTest(
            values=tuple(samples[row].tolist()),
            estimate=float(found.mean[row]),
            standard_deviation=spread,
            confidence_interval=(float(found.low[row]), float(found.high[row])),
            p_value=float(p_values[row]),
            adjusted_p_value=float(adjusted[row]),
            detectable=spread * detectable_effect(len(table.seeds), level[row]),
        )
        results.append(
            ContrastResult(
                contrast,
                is_primary=contrast.name == primary,
                found=bool(adjusted[row] < alpha),
                diverged=_diverged(contrast, table),
                test=None if np.isnan(samples[row]).any() else test,
            )
        )
    return tuple(results)


def families_of(contrasts: Sequence[Contrast], primary: str | None) -> list[list[int]]:
    """The places of the contrasts that are adjusted together: the primary one by itself, then the
    others; none is empty.
    """
    places = range(len(contrasts))
    alone = [place for place in places if contrasts[place].name == primary]
    rest = [place for place in places if contrasts[place].name != primary]
    return [family for family in (alone, rest) if family]


def check_contrasts(
    contrasts: Sequence[Contrast], arms: Sequence[str], primary: str | None
) -> None:
    """Raise ConfigError for an arm or a primary contrast that does not exist, and for a name that
    is there twice.
    """
    names = [contrast.name for contrast in contrasts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two contrasts have the name {name!r}: give each one of its own")
    for contrast in contrasts:
        if unknown := [arm for arm in contrast.arms if arm not in arms]:
            raise ConfigError(
                f"the contrast {contrast.name!r} names no arm: {', '.join(unknown)}; the arms are"
                f" {', '.join(arms)}"
            )
    if primary is not None and primary not in names:
        raise ConfigError(
            f"the primary contrast {primary!r} is none of the contrasts"
            f" {', '.join(names) or '(none)'}: name one of them"
        )


def _diverged(contrast: Contrast, table: RunTable) -> int:
    return sum(table.diverged[arm] for arm in contrast.arms)
