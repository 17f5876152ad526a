"""`tuning.jsonl`: the runs on seeds that test nothing, from which each arm gets its point of the
grid that `study.yaml` names under `tune`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puna.errors import ConfigError
from puna.study.definition import Study
from puna.study.results import Record, read_records, value_of
from puna.study.run_metrics import METRICS

FILE = "tuning.jsonl"

Point = tuple[str, ...]
"""Overrides of a recipe, one a key of the grid."""


@dataclass(frozen=True)
class TunedArm:
    """An arm with the mean of the study's metric over the tuning seeds at every point of the grid,
    infinite where a run diverged (less is better here, whatever the metric), and the best point.
    """

    arm: str
    means: Mapping[Point, float]
    point: Point


def tuned_arms(study: Study, folder: Path) -> dict[str, TunedArm] | None:
    """Every arm at its best point; the first of equals. None where runs of the grid are missing;
    empty where the study tunes nothing.
    """
    if study.tune is None:
        return {}
    found: dict[tuple[str, Point], list[float]] = {}
    for record in read_records(folder / FILE):
        if record["seed"] in study.tune.seeds:
            run = (record["arm"], tuple(record["point"]))
            found.setdefault(run, []).append(_cost(study, record))
    wanted = [(arm, point) for arm in study.arms for point in study.tune.points(arm)]
    if any(len(found.get(run, ())) < len(study.tune.seeds) for run in wanted):
        return None
    chosen = {}
    for arm in study.arms:
        means = {
            point: math.fsum(found[arm, point]) / len(found[arm, point])
            for point in study.tune.points(arm)
        }
        chosen[arm] = TunedArm(arm, means, min(means, key=lambda point: means[point]))
    return chosen


def further_overrides(study: Study, folder: Path, stage: str) -> dict[str, tuple[str, ...]]:
    """The overrides that each arm's recipe has at a stage beside the arm's own: the point that it
    was tuned to, and the stage's. Raises ConfigError where the tuning is not finished.
    """
    tuned = tuned_arms(study, folder)
    if tuned is None:
        raise ConfigError(
            f"the arms of {folder} are not tuned yet: puna study run {folder} does the runs that"
            " are missing"
        )
    points: dict[str, Point] = {arm: found.point for arm, found in tuned.items()}
    return {arm: (*points.get(arm, ()), *study.stages[stage]) for arm in study.arms}


def _cost(study: Study, record: Record) -> float:
    value = value_of(record, study.metric)
    if math.isnan(value):
        return math.inf
    return value if METRICS[study.metric].lower_is_better else -value
