"""The finished runs of a study, arm by arm and complete: what everything in a report is made from.

Not here: reading `results.jsonl` (results.py), and what the numbers say (statistics.py).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.errors import ConfigError
from puna.study.definition import Study

Record = Mapping[str, Any]


@dataclass(frozen=True)
class StudyRuns:
    """Every run that `study.yaml` asks for. by_arm: in the study's order of arms, each arm's in its
    order of seeds.

    left_out: how many records are of arms or seeds that `study.yaml` does not name.
    """

    by_arm: Mapping[str, tuple[Record, ...]]
    left_out: int

    def __len__(self) -> int:
        return sum(len(runs) for runs in self.by_arm.values())

    def __iter__(self) -> Iterator[Record]:
        return (run for runs in self.by_arm.values() for run in runs)

    def values(self, metric: str) -> dict[str, dict[int, float]]:
        """The metric by arm and seed; nan where the run diverged."""
        return {
            arm: {run["seed"]: value_of(run, metric) for run in runs}
            for arm, runs in self.by_arm.items()
        }

    def diverged(self, arm: str, metric: str) -> int:
        """How many runs of the arm have no value of the metric."""
        return sum(math.isnan(value_of(run, metric)) for run in self.by_arm[arm])


def value_of(run: Record, metric: str) -> float:
    """The run's metric; nan where it diverged."""
    value = run[metric]
    return math.nan if value is None else float(value)


def complete_runs(study: Study, records: Sequence[Record]) -> StudyRuns:
    """The study's runs. Raises ConfigError for runs that are missing or there twice, and for a
    metric that a run did not log.
    """
    wanted = [(arm, seed) for arm in study.arms for seed in study.seeds]
    found: dict[tuple[str, int], Record] = {}
    for record in records:
        job = (record["arm"], record["seed"])
        if job in found:
            raise ConfigError(
                f"arm {job[0]}, seed {job[1]} has two results, and a report cannot choose: delete"
                " one line of results.jsonl"
            )
        found[job] = record
    for arm in study.arms:
        if missing := [str(seed) for seed in study.seeds if (arm, seed) not in found]:
            seeds = f"seed{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            raise ConfigError(
                f"arm {arm} lacks {seeds}, and differences are paired: puna study run FOLDER does"
                " the missing runs"
            )
    for arm, seed in wanted:
        for metric in _reported(study):
            if metric not in found[arm, seed]:
                raise ConfigError(
                    f"arm {arm}, seed {seed} did not log {metric}, and a metric is reported of"
                    " every run or of none: take it out of study.yaml, or delete the run's line in"
                    " results.jsonl and do it again with puna study run FOLDER"
                )
    by_arm = {arm: tuple(found[arm, seed] for seed in study.seeds) for arm in study.arms}
    return StudyRuns(by_arm, len(found) - len(wanted))


def _reported(study: Study) -> tuple[str, ...]:
    return (study.metric, *study.also, *(["loss"] if study.fit else []))
