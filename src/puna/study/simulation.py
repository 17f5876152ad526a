"""The power of a study before its runs: `study.yaml` and the spread of a pilot, as a design that
`puna.statistics.power` simulates.

Not here: contrasts of another metric or of an outcome, of which the pilot's spread says nothing;
equivalence. `not_simulated` names them, and Holm's families are without them, which flatters the
power of the secondary contrasts.

Usual mistake: the pilot's observed effect as the true one; only its spread is taken here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, families_of
from puna.statistics.paired import POWER
from puna.statistics.power import (
    Calls,
    Design,
    SimulatedPower,
    arm_calls,
    contrast_calls,
    draw_runs,
    equal_covariance,
    pilot_covariance,
)
from puna.statistics.proportions import Share
from puna.statistics.run_table import MIN_SEEDS, Runs, run_table
from puna.study.analysis import contrast_of
from puna.study.definition import Study
from puna.study.results import FILE as RESULTS
from puna.study.results import Record, read_records, read_results, value_of
from puna.study.tuning import FILE as TUNING
from puna.study.tuning import tuned_arms

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PilotSpread:
    """The covariance of the arms' runs at one seed, [arms, arms] in the study's order, and a noun
    phrase for where it is from.
    """

    covariance: Array
    origin: str


@dataclass(frozen=True)
class Effect:
    """A question with the way in which a true effect is laid on it. per_unit: the true mean of each
    arm that moves, for an effect of 1.

    A contrast sum of w_k m_k gives arm i the net weight a_i, the sum of w_k / (arms of term k) over
    the terms that hold it. The means e a_i / (sum of a^2) make the contrast of the true means equal
    e exactly, and are the smallest (in the sum of squares) that do. It holds for a term that picks
    the best as well: its arms all move by the same, and their best by as much. An arm against the
    baseline moves by itself.

    Other contrasts that share arms move too, by what the weights have in common. Noise adds to a
    contrast of best runs: with equal means, the best of more or of noisier arms is better.
    """

    name: str
    per_unit: Mapping[str, float]
    of: Literal["contrast", "arm"] = "contrast"

    def means(self, size: float) -> dict[str, float]:
        """The true mean of each arm that moves, for an effect of that size."""
        return {arm: size * unit for arm, unit in self.per_unit.items()}

    def share(self, power: SimulatedPower) -> Share:
        """The studies that call it different."""
        return (power.contrasts if self.of == "contrast" else power.arms)[self.name]


def study_design(study: Study, seeds: int) -> Design:
    """The study's arms, rule and contrasts of its metric, without those that `not_simulated` names,
    for a number of seeds.
    """
    simulated = [one for one in _own_contrasts(study) if _obstacle(one) is None]
    primary = {name for name, contrast in study.contrasts.items() if contrast.primary}
    return Design(
        arms=tuple(study.arms),
        baseline=study.baseline,
        seeds=seeds,
        rule=study.rule_for(study.metric),
        contrasts=tuple(simulated),
        primary=next((one.name for one in simulated if one.name in primary), None),
    )


def not_simulated(study: Study) -> dict[str, str]:
    """The questions of the study that a simulation leaves out, with the reason."""
    left_out = {
        name: f"it is of {contrast.of}"
        for name, contrast in study.contrasts.items()
        if contrast.of not in (None, study.metric)
    }
    for contrast in _own_contrasts(study):
        if reason := _obstacle(contrast):
            left_out[contrast.name] = reason
    if study.rule.equivalence_margin is not None:
        left_out["equivalence"] = "its two one-sided tests are others"
    return left_out


def effects_of(design: Design) -> list[Effect]:
    """Every question that an effect is laid on, the primary contrast first: the contrasts, or
    without any each arm against the baseline.
    """
    if design.contrasts:
        ordered = sorted(design.contrasts, key=lambda one: one.name != design.primary)
        return [contrast_effect(one) for one in ordered]
    return [Effect(arm, {arm: 1.0}, of="arm") for arm in design.arms if arm != design.baseline]


def contrast_effect(contrast: Contrast) -> Effect:
    """The effect on a contrast, for which `not_simulated` has no reason."""
    weights = _net_weights(contrast)
    square = math.fsum(weight**2 for weight in weights.values())
    return Effect(contrast.name, {arm: weight / square for arm, weight in weights.items()})


def smallest_effect(
    design: Design, covariance: Array, effect: Effect, repetitions: int, seed: int
) -> float:
    """The effect, above 0, that `POWER` of the made-up studies call different; 0 where as many do
    without an effect.

    The same draws serve every size, so that the share is a curve, whose place at `POWER` Brent's
    method finds. With 2,000 repetitions other draws move it by about 2%.
    """
    noise = draw_runs(design, covariance, {}, repetitions, seed)
    direction = np.array([effect.per_unit.get(arm, 0.0) for arm in design.arms])[:, None]

    def excess(size: float) -> float:
        return float(_called(design, noise + size * direction, effect).mean()) - POWER

    if excess(0.0) >= 0:
        return 0.0
    upper = math.sqrt(np.trace(covariance) / len(covariance))
    while excess(upper) < 0:
        upper *= 2
    return float(optimize.brentq(excess, 0.0, upper, xtol=0.005 * upper))


def stated_spread(study: Study, spread: float, correlation: float) -> PilotSpread:
    """The same standard deviation for all arms, and correlation of any two arms' runs at a seed.

    Raises ConfigError where nothing would vary.
    """
    covariance = equal_covariance(len(study.arms), spread, correlation)
    _require_spread(
        covariance,
        f"a spread of {spread:g} with a correlation of {correlation:g} leaves differences of arms"
        " without noise: give a spread above 0 and a correlation below 1",
    )
    return PilotSpread(
        covariance, f"standard deviation {spread:g} and correlation {correlation:g}, as stated"
    )


def pilot_spread(study: Study, folder: Path, pilot: Study) -> PilotSpread:
    """The spread of the study's metric in the runs of a pilot, a study in `folder`: of its last
    stage with `MIN_SEEDS` seeds in all of its arms, else of its tuned arms on their tuning seeds.

    The pilot's own covariance where it holds every arm of the study, with more seeds than arms, and
    no run diverged; fewer seeds would leave some contrasts without noise. Else one standard
    deviation and correlation for all arms, pooled over the pilot's arms of which every run has a
    value: with V the mean variance and C the mean covariance, V - C is the residual variance of
    arm + seed (two_way.py), kept as it is, and a negative C counts as 0.

    Raises ConfigError for a pilot without runs, with one seed, without the metric, and without
    spread.
    """
    runs, source = _pilot_runs(study, folder, pilot)
    table = run_table(runs)
    of_seeds = f"{len(table.seeds)} seeds in {source}"
    complete = [arm for arm in table.arms if not table.diverged[arm]]
    if set(study.arms) <= set(complete) and len(table.seeds) > len(study.arms):
        covariance = pilot_covariance(runs, tuple(study.arms))
        origin = f"the covariance of these arms over {of_seeds}"
    elif len(complete) < 2:
        raise ConfigError(
            f"{source} has {len(complete)} of {len(table.arms)} arms of which no run diverged, and"
            " a correlation takes two: give another pilot, or --spread and --correlation"
        )
    else:
        spread, correlation = _pooled(pilot_covariance(runs, tuple(complete)))
        covariance = equal_covariance(len(study.arms), spread, correlation)
        origin = (
            f"standard deviation {spread:.3g} and correlation {correlation:.2f} for every arm,"
            f" pooled over {len(complete)} arms and {of_seeds}"
        )
    _require_spread(
        covariance,
        f"the runs of {source} do not vary from seed to seed, or all alike: give another pilot, or"
        " --spread and --correlation",
    )
    return PilotSpread(covariance, origin)


def _called(design: Design, runs: Array, effect: Effect) -> Calls:
    """The made-up studies that call it different; tests only those that are adjusted with it."""
    if effect.of == "arm":
        others = [arm for arm in design.arms if arm != design.baseline]
        return arm_calls(design, runs)[:, others.index(effect.name)]
    for places in families_of(design.contrasts, design.primary):
        family = tuple(design.contrasts[place] for place in places)
        names = [contrast.name for contrast in family]
        if effect.name in names:
            found = contrast_calls(replace(design, contrasts=family, primary=None), runs)
            return found[:, names.index(effect.name)]
    raise AssertionError(f"{effect.name} is no contrast of the design")


def _own_contrasts(study: Study) -> list[Contrast]:
    """Those of the study's metric."""
    return [
        contrast_of(study, name, one)
        for name, one in study.contrasts.items()
        if one.of in (None, study.metric)
    ]


def _obstacle(contrast: Contrast) -> str | None:
    """The reason for which no effect can be laid on a contrast."""
    if max(map(abs, _net_weights(contrast).values())) < 1e-12:
        return "its weights cancel in every arm"
    shared = any(set(a.arms) & set(b.arms) for a, b in combinations(contrast.terms, 2))
    if shared and any(term.pick == "best" for term in contrast.terms):
        return "it picks the best of terms that share arms"
    return None


def _net_weights(contrast: Contrast) -> dict[str, float]:
    weights = dict.fromkeys(contrast.arms, 0.0)
    for term in contrast.terms:
        for arm in term.arms:
            weights[arm] += term.weight / len(term.arms)
    return weights


def _pilot_runs(study: Study, folder: Path, pilot: Study) -> tuple[Runs, str]:
    """The newest runs that share enough seeds, and where they stand."""
    records = [one for one in read_results(folder) if one["arm"] in pilot.arms]
    found: dict[str, list[Record]] = {}
    for stage in reversed(pilot.stages):
        source = f"{folder / RESULTS}{f', stage {stage}' if stage else ''}"
        found[source] = [one for one in records if one.get("stage", "") == stage]
    tuned = tuned_arms(pilot, folder) or {}
    found[str(folder / TUNING)] = [
        one
        for one in read_records(folder / TUNING)
        if one["arm"] in tuned and tuple(one["point"]) == tuned[one["arm"]].point
    ]
    found = {source: of_source for source, of_source in found.items() if of_source}
    if not found:
        raise ConfigError(
            f"{folder} has no finished runs, and a simulation needs a spread: name a study that has"
            " some with --pilot, or give --spread and --correlation"
        )
    for source, of_source in found.items():
        runs = _shared_seeds(of_source, study.metric, source)
        if len(next(iter(runs.values()))) >= MIN_SEEDS:
            return runs, source
    raise ConfigError(
        f"the arms share fewer than {MIN_SEEDS} seeds in {', '.join(found)}, and one run has no"
        " spread: wait for more, name another --pilot, or give --spread and --correlation"
    )


def _shared_seeds(records: list[Record], metric: str, source: str) -> Runs:
    """The metric of every arm at the seeds that all arms have."""
    runs: dict[str, dict[int, float]] = {}
    for record in records:
        if metric not in record:
            raise ConfigError(
                f"{source} has no {metric}, the study's metric: name another --pilot, or give"
                " --spread and --correlation"
            )
        runs.setdefault(record["arm"], {})[record["seed"]] = value_of(record, metric)
    seeds = set.intersection(*(set(by_seed) for by_seed in runs.values()))
    return {arm: {seed: by_seed[seed] for seed in sorted(seeds)} for arm, by_seed in runs.items()}


def _pooled(covariance: Array) -> tuple[float, float]:
    """Standard deviation and correlation."""
    arms = len(covariance)
    variance = float(np.trace(covariance)) / arms
    shared = (float(covariance.sum()) - arms * variance) / (arms * (arms - 1))
    residual, shared = variance - shared, max(0.0, shared)
    total = residual + shared
    return math.sqrt(total), shared / total if total else 0.0


def _require_spread(covariance: Array, message: str) -> None:
    """Raise ConfigError where some combination of arms has no variance."""
    sizes = np.linalg.eigvalsh(covariance)
    if sizes[0] <= 1e-12 * max(sizes[-1], 0.0):
        raise ConfigError(message)
