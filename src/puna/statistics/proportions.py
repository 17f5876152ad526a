"""Outcomes that are yes or no, such as a run that failed: shares with intervals, Fisher's exact
test of two groups of arms, and the interaction of two factors.

Not here: metrics with a size. Where some runs of an arm are stuck and others not, its values have
two peaks and a mean of them says nothing; the count does.

The runs of one seed are taken as independent of each other here, unlike in paired.py: what a seed
does to all arms alike makes a comparison of arms find less, not more. Within a group of arms that
fail on the same seeds the runs do repeat each other, and the interval of their share is too short.

Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference; Fisher
1935, The Design of Experiments, chapter 2; McCullagh and Nelder 1989, Generalized Linear Models,
section 4.4.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from puna.errors import ConfigError

Outcomes = Mapping[str, Mapping[int, bool]]
"""Yes or no by arm and seed. Every run has an answer: one that diverged has failed."""


@dataclass(frozen=True)
class Share:
    """`count` of `total` runs, and Wilson's interval of the share."""

    count: int
    total: int
    confidence_interval: tuple[float, float]


@dataclass(frozen=True)
class FisherTest:
    """Two groups of arms; p_value: the chance, if both fail alike and given how many failed in all,
    of a table no likelier than this one (two-sided).

    Exact, and with few runs conservative: 4 of 4 against 0 of 4 gives 0.029, 3 of 3 against 0 of 3
    gives 0.1, so 3 runs a group can decide nothing at 0.05.
    """

    first: Share
    second: Share
    p_value: float


@dataclass(frozen=True)
class InteractionTest:
    """The likelihood ratio test that two factors add on the scale of log odds."""

    deviance_difference: float
    degrees_of_freedom: int
    p_value: float


def wilson_share(count: int, total: int, alpha: float = 0.05) -> Share:
    """The share with Wilson's score interval of the level 1 - alpha.

    Usual mistake: p +- 1.96 sqrt(p (1 - p) / n), which for 0 of 16 is 0 to 0; Wilson's is 0 to
    0.19.
    """
    from statsmodels.stats.proportion import proportion_confint  # brings pandas, 0.3 s

    if not 0 <= count <= total or total == 0:
        raise ConfigError(
            f"{count} of {total} runs is no share: give at least one run, and a count from 0 to"
            " their number"
        )
    low, high = proportion_confint(count, total, alpha, method="wilson")
    return Share(count, total, (float(low), float(high)))


def share_of(outcomes: Outcomes, arms: Sequence[str], alpha: float = 0.05) -> Share:
    """The share of yes among all runs of some arms."""
    _require_arms(arms, outcomes)
    runs = [outcome for arm in dict.fromkeys(arms) for outcome in outcomes[arm].values()]
    return wilson_share(sum(runs), len(runs), alpha)


def fisher_test(
    outcomes: Outcomes, first: Sequence[str], second: Sequence[str], alpha: float = 0.05
) -> FisherTest:
    """Fisher's exact test of two groups of arms, the runs of each pooled; alpha is that of the
    intervals. Raises ConfigError for arms that do not exist and for an arm in both groups.
    """
    if both := sorted(set(first) & set(second)):
        raise ConfigError(
            f"{', '.join(both)} is in both groups: a run cannot be compared with itself, so leave"
            " it out of one"
        )
    shares = share_of(outcomes, first, alpha), share_of(outcomes, second, alpha)
    table = [[share.count, share.total - share.count] for share in shares]
    return FisherTest(*shares, float(stats.fisher_exact(table).pvalue))


def interaction_test(
    outcomes: Outcomes, factors: Mapping[str, Mapping[str, str]], first: str, second: str
) -> InteractionTest:
    """The likelihood ratio test that one factor changes what another does to the odds: logistic
    regression of the runs on all factors, with and without the interaction of these two.

    factors: the level of every factor, by arm. 2 (log L with - log L without) is compared with chi
    squared, with as many degrees of freedom as the interaction adds to the rank of the design. That
    limit is rough with a few runs a cell: read a p-value near alpha as undecided.

    Complete separation (a cell of which all runs failed, or none) sends coefficients to infinity,
    so that their standard errors, and Wald's test, are meaningless; the likelihood still has its
    supremum and the deviance difference is finite, so statsmodels' warnings of it are silenced. A
    pattern that the additive model reaches in that limit, such as failures in one cell alone, needs
    no interaction on log odds, and p is 1: Fisher's test can still tell that cell from the others.

    Raises ConfigError for arms without a level, and for factors whose combinations leave no
    interaction to test.
    """
    _require_factors(outcomes, factors, first, second)
    arms = list(outcomes)
    columns = {
        factor: _indicators([factors[arm][factor] for arm in arms]) for factor in factors[arms[0]]
    }
    additive = np.hstack([np.ones((len(arms), 1)), *columns.values()])
    products = [(one * other)[:, None] for one in columns[first].T for other in columns[second].T]
    full = np.hstack([additive, *products])
    freedom = int(np.linalg.matrix_rank(full) - np.linalg.matrix_rank(additive))
    if freedom == 0:
        raise ConfigError(
            f"the arms leave no interaction of {first} and {second} to test: combine at least two"
            " levels of each with each other"
        )
    difference = max(0.0, _deviance(outcomes, additive) - _deviance(outcomes, full))
    return InteractionTest(difference, freedom, float(stats.chi2.sf(difference, freedom)))


def _deviance(outcomes: Outcomes, design: NDArray[np.float64]) -> float:
    """Of the binomial fit to the counts of the arms; design: [arms, columns]."""
    # brings pandas, 0.3 s
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    counts = np.array(
        [[sum(runs.values()), len(runs) - sum(runs.values())] for runs in outcomes.values()], float
    )
    with warnings.catch_warnings():
        # of complete separation; the deviance is finite all the same
        warnings.simplefilter("ignore")
        deviance = float(GLM(counts, design, family=Binomial()).fit().deviance)
    assert math.isfinite(deviance)
    return deviance


def _indicators(levels: Sequence[str]) -> NDArray[np.float64]:
    """[arms, levels - 1], one column for each level but the first."""
    distinct = list(dict.fromkeys(levels))[1:]
    return np.array([[float(level == one) for one in distinct] for level in levels]).reshape(
        len(levels), len(distinct)
    )


def _require_arms(arms: Sequence[str], outcomes: Outcomes) -> None:
    if unknown := [arm for arm in arms if arm not in outcomes]:
        raise ConfigError(
            f"there is no arm {', '.join(unknown)}; the arms are {', '.join(outcomes)}"
        )


def _require_factors(
    outcomes: Outcomes, factors: Mapping[str, Mapping[str, str]], first: str, second: str
) -> None:
    if not outcomes or not all(outcomes.values()):
        raise ConfigError("a regression takes at least one run of every arm: add the runs")
    names = set(factors.get(next(iter(outcomes)), ()))
    if first == second or not {first, second} <= names:
        raise ConfigError(
            f"{first} and {second} are not two of the factors {', '.join(sorted(names))}: name two"
        )
    for arm in outcomes:
        if set(factors.get(arm, ())) != names:
            raise ConfigError(
                f"the arm {arm} has levels of {sorted(factors.get(arm, ()))}, the first arm of"
                f" {sorted(names)}: give every arm a level of every factor"
            )
