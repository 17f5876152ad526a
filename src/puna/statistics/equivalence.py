"""Equivalence: two one-sided tests (TOST) that an arm differs from the baseline by less than a
margin.

Not here: tests that it differs (paired.py). An arm that is not shown to differ is not thereby shown
to be equal; that takes a margin, in the metric's unit, written before the runs: the smallest
difference that anyone would act on.

With paired differences of mean m over n seeds, standard error SE and margin M, the hypotheses are
"the true difference is -M or less" and "it is M or more", each tested at alpha by Student's t with
n - 1 degrees of freedom; both have to be rejected, so p is the larger of the two. The same is said
by the interval of the level 1 - 2 alpha (90% for 0.05) lying inside -M to M. No further adjustment
is owed for the two tests: at most one of the hypotheses is true.

Equivalent and different at once is possible, and says: a difference, too small to matter.

Source: Schuirmann 1987, A Comparison of the Two One-Sided Tests Procedure and the Power Approach
for Assessing the Equivalence of Average Bioavailability; Lakens 2017, Equivalence Tests. Usual
mistakes: a margin chosen after the interval was seen; reading equivalence off a p-value above
0.05; the 1 - alpha interval, which asks for more than alpha.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from puna.errors import ConfigError
from puna.statistics.one_sample import mean_tests
from puna.statistics.paired import holm
from puna.statistics.run_table import Runs, require_baseline, run_table


@dataclass(frozen=True)
class EquivalenceTest:
    """TOST of one sample of differences. Interval: of the level 1 - 2 alpha."""

    mean_difference: float
    confidence_interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Equivalence:
    """An arm beside the baseline. equivalent: the adjusted p-value is below alpha.

    `test` and `adjusted_p_value` are None where a run of either diverged, and it is then not
    equivalent. With an adjustment for several arms the interval, which has none, may lie inside the
    margin where the arm is not called equivalent.
    """

    arm: str
    equivalent: bool
    test: EquivalenceTest | None
    adjusted_p_value: float | None


def equivalence_test(
    differences: NDArray[np.float64], margin: float, alpha: float
) -> EquivalenceTest:
    """TOST of differences [n], n >= 2, all finite, in float64. Where all are the same value, p is 0
    if it lies inside the margin, else 1. Raises ConfigError for a margin that is no size, and for
    an alpha that is not between 0 and 0.5.
    """
    _check(margin, alpha)
    found = mean_tests(differences, 2 * alpha)
    mean, error = float(found.mean), float(found.standard_deviation) / math.sqrt(len(differences))
    distance = margin - abs(mean)  # from the mean to the nearer bound, which has the larger p
    if np.ptp(differences) == 0:
        p_value = 0.0 if distance > 0 else 1.0
    else:
        p_value = float(special.stdtr(len(differences) - 1, -distance / error))
    return EquivalenceTest(mean, (float(found.low), float(found.high)), p_value)


def analyse_equivalence(
    values: Runs, baseline: str, margin: float, alpha: float = 0.05, *, adjust: bool = True
) -> tuple[Equivalence, ...]:
    """Every arm beside the baseline, in the order given.

    adjust: Holm's adjustment over the arms, so that the chance of even one false "equivalent" is at
    most alpha; an arm without a test stays in the family as if its p-value were 1.
    """
    _check(margin, alpha)
    require_baseline(baseline, values)
    table = run_table(values)
    runs = table.by_arm
    tests: dict[str, EquivalenceTest | None] = {}
    for arm in table.arms:
        if arm != baseline:
            differences = runs[arm] - runs[baseline]
            sound = not np.isnan(differences).any()
            tests[arm] = equivalence_test(differences, margin, alpha) if sound else None
    p_values = [1.0 if test is None else test.p_value for test in tests.values()]
    adjusted = holm(p_values) if adjust else p_values
    return tuple(
        Equivalence(arm, p < alpha, test, None if test is None else p)
        for (arm, test), p in zip(tests.items(), adjusted, strict=True)
    )


def _check(margin: float, alpha: float) -> None:
    if not 0 < margin < math.inf:
        raise ConfigError(
            f"the margin {margin} is no size: give more than 0, in the unit of the metric, the"
            " smallest difference that anyone would act on"
        )
    if not 0 < alpha < 0.5:
        raise ConfigError(
            f"alpha {alpha} is no probability of falsely calling arms equivalent: give one between"
            " 0 and 0.5, such as 0.05"
        )
