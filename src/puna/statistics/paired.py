"""The statistics of a study: paired differences over its seeds, their intervals and p-values, and a
verdict by a rule written before the run.

Not here: the runs, the metric, the report; questions other than arm against baseline
(contrasts.py). No test is chosen by the numbers: there is one test, and
it is this one. The paired t test is scipy's, Holm's procedure statsmodels'; our own are the family
that a diverged arm still belongs to, differences without a spread, and `detectable_effect`.

Paired, because a seed sets the initialisation and the order of the data, the same in every arm.
What a seed does to all arms alike drops out of arm minus baseline: Var(a - b) = 2 s^2 (1 - r) for
runs of equal spread s and correlation r. It is not free: n pairs leave n - 1 degrees of freedom,
two unpaired groups 2 n - 2, so that with 4 seeds the interval is the shorter one only from r of
about 0.41. `Analysis.pairing_gain` shows what it bought.

Student's t, because the spread is estimated from the same few differences: with 4 of them, 95% take
3.18 standard errors and not 1.96. Holm, because each further arm is a further chance to be fooled:
it holds the chance of even one false verdict in the study at alpha.

Assumed: the seeds are independent draws, and the differences are about normal. Under the hypothesis
tested, that the arms are alike, they are symmetric however skewed the runs are; heavy tails make
the test find less, not more. Not covered: other data, other sizes, a learning rate tuned for one
arm, peeking at a half-finished study. An undecided arm is not shown to be equal: its interval says
what it may still be.

Source: Student 1908, The Probable Error of a Mean; Holm 1979, A Simple Sequentially Rejective
Multiple Test Procedure; Bouthillier et al. 2021, Accounting for Variance in Machine Learning
Benchmarks.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from puna.errors import ConfigError
from puna.statistics.one_sample import mean_tests
from puna.statistics.run_table import Runs, require_baseline, run_table

Verdict = Literal["better", "worse", "undecided", "diverged"]

# how often a study should see a difference that is there; Cohen 1988, Statistical Power Analysis,
# section 2.4
POWER = 0.8


@dataclass(frozen=True)
class DecisionRule:
    """An arm differs from the baseline if its Holm-adjusted p-value is below `alpha` and its mean
    difference, either way, is above `smallest_difference`: the most that nobody would act on, in
    the unit of the metric. Intervals have the level 1 - alpha.
    """

    alpha: float = 0.05
    smallest_difference: float = 0.0
    lower_is_better: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(
                f"alpha {self.alpha} is no probability of a false alarm: give one between 0 and 1,"
                " such as 0.05"
            )
        if not 0 <= self.smallest_difference < math.inf:
            raise ConfigError(
                f"smallest_difference {self.smallest_difference} is no size: give 0 or more, in the"
                " unit of the metric"
            )

    @property
    def level(self) -> str:
        """The level of the intervals as text: `95%`."""
        return f"{100 * (1 - self.alpha):g}%"

    def verdict(self, mean_difference: float, adjusted_p_value: float) -> Verdict:
        """For an arm of which every run has a value."""
        if not (adjusted_p_value < self.alpha and abs(mean_difference) > self.smallest_difference):
            return "undecided"
        return "better" if (mean_difference < 0) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class PairedTest:
    """Student's paired t test of an arm against the baseline; every difference is arm minus
    baseline.

    With d_1 ... d_n of mean m and standard deviation s (divisor n - 1), SE = s / sqrt(n): the
    interval is m +- t_(1 - alpha/2, n-1) SE and the two-sided p-value 2 P(T_(n-1) > |m| / SE).
    Where all d are the same, s = 0: p is 1 if they are 0, else 0.

    The interval is this arm's own, not adjusted for the others: it may leave out 0 where the
    adjusted p-value decides nothing.
    """

    differences: tuple[float, ...]  # in the order of the seeds
    mean_difference: float
    standard_deviation: float
    confidence_interval: tuple[float, float]
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline. `test` is None where a run of either diverged: a mean over the
    others would be a mean of the lucky.
    """

    arm: str
    verdict: Verdict
    diverged: int  # runs of this arm whose metric is not finite
    test: PairedTest | None


@dataclass(frozen=True)
class NoiseFloor:
    """The spread of the baseline's own runs; mean and standard deviation (divisor n - 1) are
    None where one of them diverged.
    """

    diverged: int
    mean: float | None
    standard_deviation: float | None


@dataclass(frozen=True)
class Analysis:
    """All that the study's table says, arms in the order given."""

    rule: DecisionRule
    baseline: str
    seeds: tuple[int, ...]
    noise_floor: NoiseFloor
    comparisons: tuple[Comparison, ...]

    @property
    def best_first(self) -> list[Comparison]:
        """The comparisons from the best arm to the worst, those without a test last."""
        sign = 1 if self.rule.lower_is_better else -1
        return sorted(
            self.comparisons,
            key=lambda one: (
                one.test is None,
                sign * one.test.mean_difference if one.test else 0.0,
            ),
        )

    @property
    def detectable_differences(self) -> dict[str, float]:
        """Of every tested arm, by the spread of its own differences: the true difference that such
        a study finds in 80 of 100 repetitions (`POWER`), below which `undecided` says little. For
        an arm that is alone in differing, so at Holm's first level, alpha / arms, and by the
        p-value alone.

        Each is as rough as a standard deviation of n differences. Usual mistake: one figure from
        the spread of all arms together, which is that of the wildest.
        """
        effect = detectable_effect(len(self.seeds), self.rule.alpha / len(self.comparisons))
        return {
            comparison.arm: effect * comparison.test.standard_deviation
            for comparison in self.comparisons
            if comparison.test is not None
        }

    @property
    def pairing_gain(self) -> float | None:
        """2 s_baseline^2 / s_differences^2, which estimates 1 / (1 - r): about how many times as
        many seeds unpaired groups would need; s_differences is the median over the arms, which a
        single wild one does not move.

        Rough, being a ratio of two small samples. Infinite where the differences do not vary; None
        where either is unknown.
        """
        alone = self.noise_floor.standard_deviation
        tests = [comparison.test for comparison in self.comparisons if comparison.test is not None]
        if alone is None or not tests:
            return None
        paired = float(np.median([test.standard_deviation for test in tests]))
        return 2 * (alone / paired) ** 2 if paired else math.inf


def analyse(values: Runs, baseline: str, rule: DecisionRule) -> Analysis:
    """Every arm against the baseline.

    A diverged arm stays in Holm's family, as if its p-value were 1: how many arms were
    asked about does not depend on the answers. If the baseline diverged, no arm has a test, and
    those that did not diverge themselves are undecided. Raises ConfigError for one seed, for arms
    with different seeds and for a baseline without arms.
    """
    require_baseline(baseline, values)
    table = run_table(values)
    runs, diverged = table.by_arm, table.diverged
    arms = [arm for arm in runs if arm != baseline]
    tested = [] if diverged[baseline] else [arm for arm in arms if not diverged[arm]]
    tests = _paired_tests(
        {arm: runs[arm] - runs[baseline] for arm in tested}, rule.alpha, family=len(arms)
    )

    def verdict(arm: str) -> Verdict:
        if diverged[arm]:
            return "diverged"
        test = tests.get(arm)
        return rule.verdict(test.mean_difference, test.adjusted_p_value) if test else "undecided"

    comparisons = tuple(
        Comparison(arm, verdict(arm), diverged[arm], tests.get(arm)) for arm in arms
    )
    own = runs[baseline]
    mean, spread = (
        (None, None) if diverged[baseline] else (float(own.mean()), float(own.std(ddof=1)))
    )
    return Analysis(
        rule, baseline, table.seeds, NoiseFloor(diverged[baseline], mean, spread), comparisons
    )


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjusted p-values, in the order given: of the sorted p_(1) <= ... <= p_(m), max over j <= i
    of min(1, (m - j + 1) p_(j)).

    Those below alpha may all be called differences: the chance of one false call among them is at
    most alpha, whatever the p-values have to do with each other (here they share a baseline). Never
    larger than Bonferroni's m p.

    Source: Holm 1979. Usual mistake: leaving out the running maximum, which lets a larger p-value
    overtake a smaller one.
    """
    # its import brings pandas, 0.3 s; each call collects garbage, 0.1 s beside PyTorch
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(list(p_values), method="holm")[1]]


def detectable_effect(seeds: int, alpha: float) -> float:
    """The mean difference, in standard deviations of the differences, that a two-sided paired t
    test finds with probability `POWER`.

    With effect e the statistic is noncentral t with n - 1 degrees of freedom and noncentrality e
    sqrt(n): e solves P(T > t_(1 - alpha/2, n-1)) = 0.8. The few cases in which chance would turn
    the sign are not counted as found.

    By scipy's inverse in the noncentrality, and not by statsmodels' `TTestPower.solve_power`, which
    is less exact: with 4 seeds at 0.05 its effect has a power of 0.8 + 8e-7, this one's is within
    1e-8, and with 30 seeds at 2e-5 it returns a negative effect (statsmodels 0.15).

    Source: Cohen 1988, chapter 2. Usual mistake: normal quantiles, (1.96 + 0.84) / sqrt(n), which
    promise 1.40 with 4 seeds, where it takes 2.13.
    """
    quantile = special.stdtrit(seeds - 1, 1 - alpha / 2)
    return float(special.nctdtrinc(seeds - 1, 1 - POWER, quantile)) / math.sqrt(seeds)


def _paired_tests(
    differences: Mapping[str, NDArray[np.float64]], alpha: float, family: int
) -> dict[str, PairedTest]:
    """The test of each arm by itself, and Holm's adjustment for `family` arms, of which those
    without differences count as p = 1.
    """
    if not differences:
        return {}
    found = mean_tests(np.array(list(differences.values())), alpha)
    # a family that shrank with every diverged arm would lower the p-values of the others
    adjusted = holm([*found.p_value, *[1.0] * (family - len(differences))])
    return {
        arm: PairedTest(
            differences=tuple(of_arm.tolist()),
            mean_difference=float(found.mean[row]),
            standard_deviation=float(found.standard_deviation[row]),
            confidence_interval=(float(found.low[row]), float(found.high[row])),
            p_value=float(found.p_value[row]),
            adjusted_p_value=adjusted[row],
        )
        for row, (arm, of_arm) in enumerate(differences.items())
    }
