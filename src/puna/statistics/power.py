"""The power of a design before it is run: the share of made-up studies, with a stated true effect
and the spread of a pilot, that would call each arm and each contrast different.

Not here: the true effect that one test by itself finds (`detectable_effect` in paired.py, which is
exact). A simulation answers for the whole rule: Holm over arms that share a baseline, contrasts,
the best of several arms, and with no effect at all the rate of false alarms.

Runs are drawn from a normal distribution: at each seed one vector over the arms, with the mean of
its effects and a covariance that holds both the spread of every arm and what a seed does to all of
them. Nothing diverges. The verdicts are those of paired.py and contrasts.py, taken for all studies
at once (a test holds the two together).

Usual mistakes: the observed effect of the pilot as the true one, which after a selection is too
large; and a covariance of few pilot seeds taken at its word: with 4 seeds a standard deviation may
be off by half, so try a larger one too.

Source: Cohen 1988, Statistical Power Analysis; Gelman and Carlin 2014, Beyond Power Calculations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, check_contrasts, families_of
from puna.statistics.one_sample import mean_tests
from puna.statistics.paired import DecisionRule
from puna.statistics.proportions import Share, wilson_share
from puna.statistics.run_table import MIN_SEEDS, Runs, run_table

Array = NDArray[np.float64]
Calls = NDArray[np.bool_]


@dataclass(frozen=True)
class Design:
    """A study before its runs. Raises ConfigError for a baseline, a contrast or a primary one that
    does not exist, and for fewer than two arms or seeds.
    """

    arms: tuple[str, ...]
    baseline: str
    seeds: int
    rule: DecisionRule
    contrasts: tuple[Contrast, ...] = ()
    primary: str | None = None

    def __post_init__(self) -> None:
        if self.baseline not in self.arms or len(set(self.arms)) < max(2, len(self.arms)):
            raise ConfigError(
                f"the arms {', '.join(self.arms)} must be at least two, different, and hold the"
                f" baseline {self.baseline!r}: add what is missing"
            )
        if self.seeds < MIN_SEEDS:
            raise ConfigError(
                f"a design with seeds: {self.seeds} has no spread: give at least {MIN_SEEDS} runs"
                " of every arm"
            )
        check_contrasts(self.contrasts, self.arms, self.primary)


@dataclass(frozen=True)
class SimulatedPower:
    """Of all made-up studies, the share that calls an arm, or finds a contrast, with Wilson's
    interval (95%) of the simulation itself.

    any_arm: at least one arm is called; any_secondary: at least one contrast besides the primary
    one is found, None where there is none. With no true effects these are the rates of false
    alarms.
    """

    arms: Mapping[str, Share]
    contrasts: Mapping[str, Share]
    any_arm: Share
    any_secondary: Share | None


def simulate_power(
    design: Design,
    covariance: Array,
    effects: Mapping[str, float],
    repetitions: int = 2000,
    seed: int = 0,
) -> SimulatedPower:
    """The power of a design. covariance: of the arms' runs at one seed, [arms, arms], in the
    design's order; effects: the true mean by arm, in the metric's unit, 0 where not named.

    Raises ConfigError for an arm that does not exist and for a matrix that is no covariance.
    """
    runs = draw_runs(design, covariance, effects, repetitions, seed)
    called, found = arm_calls(design, runs), contrast_calls(design, runs)

    def share(calls: Calls) -> Share:
        return wilson_share(int(calls.sum()), len(calls))

    others = [arm for arm in design.arms if arm != design.baseline]
    secondary = [row for row, one in enumerate(design.contrasts) if one.name != design.primary]
    return SimulatedPower(
        {arm: share(called[:, row]) for row, arm in enumerate(others)},
        {one.name: share(found[:, row]) for row, one in enumerate(design.contrasts)},
        share(np.logical_or.reduce(called, axis=1)),
        share(np.logical_or.reduce(found[:, secondary], axis=1)) if secondary else None,
    )


def draw_runs(
    design: Design,
    covariance: Array,
    effects: Mapping[str, float],
    repetitions: int,
    seed: int,
) -> Array:
    """Made-up studies, [repetitions, arms, seeds]."""
    arms = len(design.arms)
    if unknown := [arm for arm in effects if arm not in design.arms]:
        raise ConfigError(
            f"there is no arm {', '.join(unknown)} to have an effect; the arms are"
            f" {', '.join(design.arms)}"
        )
    if covariance.shape != (arms, arms) or not np.allclose(covariance, covariance.T):
        raise ConfigError(
            f"a covariance of the shape {covariance.shape} is not one of {arms} arms: give a"
            f" symmetric {arms} x {arms} matrix"
        )
    sizes = np.linalg.eigvalsh(covariance)
    if sizes[0] < -1e-8 * max(sizes[-1], 0.0):
        raise ConfigError(
            f"the covariance has the eigenvalue {sizes[0]:g}, so that some combination of arms"
            " would have a negative variance: take it from runs, or lower its correlations"
        )
    mean = np.array([effects.get(arm, 0.0) for arm in design.arms])
    rng = np.random.default_rng(seed)
    runs = rng.multivariate_normal(
        mean, covariance, size=(repetitions, design.seeds), method="eigh", check_valid="ignore"
    )
    return runs.transpose(0, 2, 1)


def arm_calls(design: Design, runs: Array) -> Calls:
    """The verdicts of paired.py other than undecided, [repetitions, arms but the baseline], of runs
    [repetitions, arms, seeds].
    """
    place = design.arms.index(design.baseline)
    differences = np.delete(runs, place, axis=1) - runs[:, place, None]
    found = mean_tests(differences, design.rule.alpha)
    large = np.abs(found.mean) > design.rule.smallest_difference
    return (holm_rows(found.p_value) < design.rule.alpha) & large


def contrast_calls(design: Design, runs: Array) -> Calls:
    """The contrasts that contrasts.py finds, [repetitions, contrasts]."""
    by_arm = {arm: runs[:, row] for row, arm in enumerate(design.arms)}
    found = np.zeros((len(runs), len(design.contrasts)), dtype=np.bool_)
    for family in families_of(design.contrasts, design.primary):
        values = [
            design.contrasts[row].evaluate(by_arm, lower_is_better=design.rule.lower_is_better)
            for row in family
        ]
        p_values = mean_tests(np.stack(values, axis=1), design.rule.alpha).p_value
        found[:, family] = holm_rows(p_values) < design.rule.alpha
    return found


def holm_rows(p_values: Array) -> Array:
    """`paired.holm` of every row of p-values [repetitions, tests]: statsmodels takes one row at a
    time, 0.1 s each.
    """
    order = np.argsort(p_values, axis=1)
    tests = p_values.shape[1]
    steps = np.take_along_axis(p_values, order, axis=1) * (tests - np.arange(tests))
    adjusted = np.empty_like(p_values)
    np.put_along_axis(
        adjusted, order, np.minimum(1.0, np.maximum.accumulate(steps, axis=1)), axis=1
    )
    return adjusted


def pilot_covariance(values: Runs, arms: tuple[str, ...]) -> Array:
    """The covariance of the arms' runs over the seeds of a pilot (divisor n - 1), [arms, arms] in
    the order of `arms`; what sets the arms' means apart drops out.

    Of rank n - 1 at most, so with fewer seeds than arms some contrasts have no spread in it: then
    `equal_covariance` with the pilot's residual spread (two_way.py) is the better guess. Raises
    ConfigError for an arm that the pilot lacks or of which a run diverged.
    """
    table = run_table(values)
    bad = [arm for arm in arms if table.diverged.get(arm, 1)]
    if bad:
        raise ConfigError(
            f"the pilot has no complete runs of {', '.join(bad)}: leave these arms out, or give"
            " another pilot"
        )
    return np.atleast_2d(np.cov([table.by_arm[arm] for arm in arms], dtype=np.float64))


def equal_covariance(arms: int, spread: float, correlation: float) -> Array:
    """The covariance where all arms have the standard deviation `spread`, and any two arms' runs of
    one seed the correlation given, 0 to 1. A paired difference has the standard deviation
    spread sqrt(2 (1 - correlation)).
    """
    if not (spread >= 0 and 0 <= correlation <= 1):
        raise ConfigError(
            f"a spread of {spread} with a correlation of {correlation}: give a spread of 0 or more"
            " and a correlation from 0 to 1"
        )
    shared = np.full((arms, arms), correlation)
    np.fill_diagonal(shared, 1.0)
    return spread**2 * shared
