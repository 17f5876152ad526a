"""Tokens until a run reaches a level of a metric, where not every run does: Kaplan and Meier's
median, and the log-rank test of groups.

Not here: the metric after the last step (paired.py, contrasts.py).

A run that ends before it reaches the level is censored: all that is known is that it takes longer.
Leaving such runs out, or counting their end as the time, makes the slow arms look fast.

A metric is looked at now and then, and a run may have crossed the level at any time since the look
before: the times are interval-censored to the looks, and rounded up to them here. With the same
looks in every arm that is fair, but differences smaller than the distance of two looks are not
seen, and ties are frequent.

Source: Kaplan and Meier 1958, Nonparametric Estimation from Incomplete Observations; Mantel 1966,
Evaluation of Survival Data and Two New Rank Order Statistics.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from puna.errors import ConfigError


class TimeToLevel(NamedTuple):
    """The look at which a run reached the level, or its last one, at which it is censored."""

    time: float
    reached: bool


@dataclass(frozen=True)
class MedianTime:
    """The first look by which half of the runs have reached the level, None where they never do;
    `confidence_interval` by the log-log method, a bound None where the runs set none.
    """

    runs: int
    reached: int
    median: float | None
    confidence_interval: tuple[float | None, float | None]


@dataclass(frozen=True)
class LogRankTest:
    """Mantel's test that groups reach the level at the same rate at all times."""

    statistic: float  # chi squared
    degrees_of_freedom: int
    p_value: float


def time_to_level(
    curve: Sequence[tuple[float, float]], level: float, *, lower_is_better: bool
) -> TimeToLevel:
    """The first look (time, value) at or beyond the level, without interpolation between looks; a
    value that is not finite reaches nothing. Raises ConfigError for a curve without looks, or with
    times that do not rise.
    """
    times = [time for time, _ in curve]
    if not times or any(later <= time for time, later in itertools.pairwise(times)):
        raise ConfigError(
            f"the times of a curve are {times}: give at least one look, in rising order of time"
        )
    for time, value in curve:
        beyond = value <= level if lower_is_better else value >= level
        if math.isfinite(value) and beyond:
            return TimeToLevel(time, reached=True)
    return TimeToLevel(times[-1], reached=False)


def median_time(runs: Sequence[TimeToLevel], alpha: float = 0.05) -> MedianTime:
    """Kaplan and Meier's median, with an interval of the level 1 - alpha, from statsmodels' curve.

    Not by its `quantile`, which asks for less than one half and, with a curve that is one half but
    for rounding, gives now this look and now the next. Of few runs the interval is rough. Raises
    ConfigError for no runs.
    """
    from statsmodels.duration.survfunc import SurvfuncRight  # brings pandas, 0.3 s

    reached = sum(run.reached for run in runs)
    if not runs:
        raise ConfigError("no runs have no median: give at least one")
    if not reached:
        return MedianTime(len(runs), 0, None, (None, None))
    # at the time of the last run the share may be 0, of which the log-log transform is infinite
    with np.errstate(divide="ignore", invalid="ignore"):
        curve = SurvfuncRight([run.time for run in runs], [int(run.reached) for run in runs])
        low, high = curve.quantile_ci(0.5, alpha)
    half = curve.surv_times[curve.surv_prob <= 0.5 + 1e-9]
    median = float(half[0]) if len(half) else None
    return MedianTime(len(runs), reached, median, (_finite(low), _finite(high)))


def log_rank_test(groups: Mapping[str, Sequence[TimeToLevel]]) -> LogRankTest:
    """The log-rank test of two groups or more, runs taken as independent, by statsmodels.

    A group whose runs all end before the first look at which any run reaches the level tells
    nothing, and takes its degree of freedom with it. p is 1 where no run reaches the level, or all
    do at that look. The limit by chi squared is rough with a few runs a group. Raises ConfigError
    for fewer than two groups and for one without runs.
    """
    from statsmodels.duration.survfunc import survdiff  # brings pandas, 0.3 s

    if len(groups) < 2 or not all(groups.values()):
        raise ConfigError(
            f"the groups {', '.join(groups) or '(none)'} cannot be compared: give at least two,"
            " each with at least one run"
        )
    first = min((run.time for runs in groups.values() for run in runs if run.reached), default=None)
    if first is None:
        return LogRankTest(0.0, len(groups) - 1, 1.0)
    rows = [
        (run.time, run.reached, group)
        for group, runs in groups.items()
        for run in runs
        if run.time >= first
    ]
    times, reached, names = (np.array(column) for column in zip(*rows, strict=True))
    freedom = len(set(names)) - 1
    if freedom == 0 or np.all(reached & (times == first)):
        return LogRankTest(0.0, len(groups) - 1, 1.0)  # its variance is 0
    statistic, p_value = survdiff(times, reached.astype(int), names)
    return LogRankTest(float(statistic), freedom, float(p_value))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
