"""Arm and seed as one additive model, value = arm + seed + noise: a two-way analysis of variance
without replication.

Not here: the paired tests of each arm by its own spread (paired.py), which assume less.

All arms together estimate one residual spread, with (a - 1)(n - 1) degrees of freedom for a arms
and n seeds where a paired t test has n - 1: with 9 arms and 4 seeds 24 instead of 3, so 95% take
2.06 standard errors and not 3.18. It is paid for with an assumption, that the noise of all arms is
equally large; `equal_spread_p_value` stands beside it. An arm that is noisier than the others is
called different too often, a quieter one too rarely.

Two adjustments for the several comparisons, of which a study names one before its runs: Holm's,
which holds for any p-values and eases with every arm that is found, and Dunnett's, which uses that
all comparisons share the baseline but takes one step: its smallest p-value is below Holm's, later
ones may be above. Dunnett's p is P(max |T_j| > |t|) for k t variables with correlations 1/2,
k the number of arms besides the baseline: scipy's integral of the multivariate t, by quasi-random
points from a fixed state, so that equal runs give equal digits. With `POINTS` points it is within
5e-5 for up to 15 comparisons (measured against Dunnett's own double integral), 0.1 s each.

Assumed besides: no arm gains from some seeds what others lose (no interaction of arm and seed; what
there is of it counts as noise); every run has a value, so arms with a diverged run are left out.

Source: Scheffé 1959, The Analysis of Variance, chapter 4; Dunnett 1955, A Multiple Comparison
Procedure for Comparing Several Treatments with a Control; Brown and Forsythe 1974, Robust Tests for
the Equality of Variances.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from puna.statistics.paired import holm
from puna.statistics.run_table import Runs, require_baseline, run_table

POINTS = 100_000


@dataclass(frozen=True)
class ArmMean:
    """The mean of an arm's runs. Interval: m +- t residual / sqrt(n), for these seeds: what a seed
    does to all arms alike is not in it, so it serves to compare arms, not to foretell other seeds.
    """

    arm: str
    mean: float
    confidence_interval: tuple[float, float]


@dataclass(frozen=True)
class PooledComparison:
    """Arm minus baseline, with the standard error residual sqrt(2 / n); the interval is the arm's
    own, not adjusted.
    """

    arm: str
    mean_difference: float
    confidence_interval: tuple[float, float]
    p_value: float
    holm_p_value: float
    dunnett_p_value: float


@dataclass(frozen=True)
class TwoWayAnalysis:
    """The fit to the arms of which every run has a value; `left_out` names the others.

    residual_standard_deviation and what follows are None and empty where fewer than two arms are
    left, comparisons also where the baseline is left out. equal_spread_p_value: of Brown and
    Forsythe's test on the residuals, small where the arms' spreads differ; None for two arms or two
    seeds, whose residuals mirror each other, and for residuals of 0. With 4 seeds it sees only
    large differences, so a large p-value shows no equality.
    """

    baseline: str
    seeds: tuple[int, ...]
    left_out: tuple[str, ...]
    residual_standard_deviation: float | None
    degrees_of_freedom: int
    means: tuple[ArmMean, ...]
    comparisons: tuple[PooledComparison, ...]
    equal_spread_p_value: float | None


def analyse_two_way(values: Runs, baseline: str, alpha: float) -> TwoWayAnalysis:
    """The additive fit, with intervals of the level 1 - alpha, arms in the order given.

    An arm that is left out stays in the family of both adjustments: how many arms were asked about
    does not depend on the answers. Raises ConfigError for a table that cannot be paired.
    """
    require_baseline(baseline, values)
    table = run_table(values)
    arms = [arm for arm in table.arms if not table.diverged[arm]]
    left_out = tuple(arm for arm in table.arms if table.diverged[arm])
    if len(arms) < 2:
        return TwoWayAnalysis(baseline, table.seeds, left_out, None, 0, (), (), None)
    runs = np.array([table.by_arm[arm] for arm in arms])  # [arms, seeds]
    means = runs.mean(axis=1)
    residuals = runs - means[:, None] - runs.mean(axis=0) + runs.mean()
    # runs without noise leave rounding errors, which are no spread
    residuals[np.abs(residuals) < 1e-14 * np.abs(runs).max()] = 0.0
    freedom = (len(arms) - 1) * (len(table.seeds) - 1)
    spread = math.sqrt(np.sum(residuals**2) / freedom)
    error = spread / math.sqrt(len(table.seeds))  # of one mean
    half = float(special.stdtrit(freedom, 1 - alpha / 2)) * error
    by_arm = dict(zip(arms, means.tolist(), strict=True))
    return TwoWayAnalysis(
        baseline,
        table.seeds,
        left_out,
        spread,
        freedom,
        tuple(ArmMean(arm, mean, (mean - half, mean + half)) for arm, mean in by_arm.items()),
        _comparisons(by_arm, baseline, error, freedom, alpha, family=len(table.arms) - 1)
        if baseline in by_arm
        else (),
        _equal_spread(residuals),
    )


def dunnett(statistics: NDArray[np.float64], family: int, freedom: int) -> NDArray[np.float64]:
    """Dunnett's two-sided p-values of t statistics [comparisons], for `family` arms against one
    baseline, all with equally many runs.
    """
    correlation = np.full((family, family), 0.5)
    np.fill_diagonal(correlation, 1.0)
    inside = [
        stats.multivariate_t.cdf(
            np.full(family, size),
            np.zeros(family),
            correlation,
            freedom,
            lower_limit=np.full(family, -size),
            maxpts=POINTS,
            random_state=0,
        )
        for size in np.abs(statistics)
    ]
    return np.clip(1 - np.array(inside, dtype=np.float64), 0.0, 1.0)


def _comparisons(
    means: dict[str, float],
    baseline: str,
    error: float,
    freedom: int,
    alpha: float,
    family: int,
) -> tuple[PooledComparison, ...]:
    """error: the standard error of one arm's mean."""
    arms = [arm for arm in means if arm != baseline]
    differences = np.array([means[arm] - means[baseline] for arm in arms])
    error *= math.sqrt(2)
    if error == 0:
        p = dunnett_p = np.where(differences == 0, 1.0, 0.0)
    else:
        statistics = differences / error
        p = 2 * special.stdtr(freedom, -np.abs(statistics))
        dunnett_p = dunnett(statistics, family, freedom)
    adjusted = holm([*p, *[1.0] * (family - len(arms))])
    half = float(special.stdtrit(freedom, 1 - alpha / 2)) * error
    return tuple(
        PooledComparison(
            arm,
            float(differences[row]),
            (float(differences[row] - half), float(differences[row] + half)),
            float(p[row]),
            adjusted[row],
            float(dunnett_p[row]),
        )
        for row, arm in enumerate(arms)
    )


def _equal_spread(residuals: NDArray[np.float64]) -> float | None:
    if min(residuals.shape) < 3 or not residuals.any():
        return None
    return float(stats.levene(*residuals, center="median").pvalue)
