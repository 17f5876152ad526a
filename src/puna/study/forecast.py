"""A forecast of how long the rest of a study takes: from what its runs took on this machine, and
before the first has ended from a few training steps of the baseline.
"""

from functools import cached_property
from pathlib import Path

import torch

from puna.device import processor_name
from puna.study.arms import Arm, resolve_arms
from puna.study.definition import Study
from puna.study.job import Job
from puna.study.results import read_records
from puna.study.runner import phases
from puna.training.step_time import fastest_step_seconds, random_batch


class Forecast:
    """Seconds until the runs of a study that have no record are done, `jobs` at a time.

    A run is taken to last in proportion to its training FLOPs, at the rate of the records of this
    processor, starting and scoring included. Before the first record it is the rate of the fastest
    of three training steps of the baseline, which promises too much: jobs share memory, and
    scoring is not in it.
    """

    def __init__(self, study: Study, folder: Path, jobs: int, last: str | None = None) -> None:
        self.folder, self.jobs, self.phases = folder, jobs, phases(study, last)
        self._flops: dict[Job, float] = {}
        # a run costs the same whatever its arm is tuned to
        tuning = study.tune.overrides if study.tune else ()
        for phase in self.phases:
            job = phase.jobs[0]
            overrides = tuning if job.point else study.stages[job.stage]
            arms = resolve_arms(study, folder, dict.fromkeys(study.arms, overrides))
            self._flops |= {job: _training_flops(arms[job.arm]) for job in phase.jobs}
            self._baseline = arms[study.baseline]

    @property
    def seconds(self) -> float:
        """As things stand on disk."""
        left = [job for phase in self.phases for job in phase.unfinished(self.folder)]
        files = dict.fromkeys(phase.file for phase in self.phases)
        here = [
            record
            for file in files
            for record in read_records(self.folder / file)
            if record["machine"].get("processor") == processor_name()
        ]
        if here:
            done = sum(record["tokens"] * record["flops_per_token"] for record in here)
            rate = done / sum(record["machine"]["seconds"] for record in here)
        else:
            rate = self._rate_of_steps
        seconds: float = sum(self._flops[job] for job in left) / rate / self.jobs
        return seconds

    @cached_property
    def _rate_of_steps(self) -> float:
        recipe, threads = self._baseline.recipe, torch.get_num_threads()
        torch.set_num_threads(max(1, threads // self.jobs))
        seconds = fastest_step_seconds(recipe, lambda _: random_batch(recipe), steps=3)
        torch.set_num_threads(threads)
        rate: float = recipe.tokens_per_step * self._baseline.flops_per_token / seconds
        return rate


def _training_flops(arm: Arm) -> float:
    return arm.recipe.train.steps * arm.recipe.tokens_per_step * arm.flops_per_token
