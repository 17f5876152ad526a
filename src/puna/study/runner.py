"""Running a study: its arms tuned where it asks for that, then every arm with every seed, stage by
stage, each in a process of its own, in a balanced order, going on after a kill.

Not here: how a recipe's data are opened, which the caller passes in as a function that another
process can import, and where the processes run: any executor with `submit` will do, such as the
standard library's or submitit's.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from puna.errors import ConfigError, TrainingError
from puna.spawn import SpawnedPool
from puna.study.arms import Arm, resolve_arms
from puna.study.definition import Study
from puna.study.job import Job, OpenInputs, arm_hash, begin_process, run_job
from puna.study.provenance import provenance
from puna.study.results import FILE as RESULTS
from puna.study.results import append_record, code_hash, read_records
from puna.study.tuning import FILE as TUNING
from puna.study.tuning import further_overrides

NICE = 19  # the lowest priority


class Pending(Protocol):
    """A job that was handed to an executor."""

    def done(self) -> bool:
        """True once it has ended, well or not."""
        ...

    def result(self) -> Any:
        """The value that the function returned; raises what it raised."""
        ...


class JobExecutor(Protocol):
    """Whatever runs functions in other processes."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Pending:
        """Have `function(*arguments)` called once."""
        ...


@dataclass(frozen=True)
class Phase:
    """Runs that may all go on at once: those that tune the arms, or those of a stage. Their records
    go to `file`.
    """

    study: Study
    file: str
    jobs: tuple[Job, ...]

    def unfinished(self, folder: Path) -> list[Job]:
        """The jobs that have no record yet, in the order of the schedule."""
        finished = {Job.of(record) for record in read_records(folder / self.file)}
        return [job for job in self.jobs if job not in finished]

    def arms(self, folder: Path) -> dict[Job, Arm]:
        """The arm of each job, with all that its recipe has beside the arm's own overrides. Raises
        ConfigError where arms have to be tuned first.
        """
        tuning, arms = self.study.tune, {}
        for job in self.jobs:
            key = (job.arm if job.point else "", job.stage, job.point)
            if key not in arms:
                further = (
                    {job.arm: (*tuning.overrides, *job.point)}
                    if tuning and job.point
                    else further_overrides(self.study, folder, job.stage)
                )
                arms[key] = resolve_arms(self.study, folder, further)
        return {
            job: arms[job.arm if job.point else "", job.stage, job.point][job.arm]
            for job in self.jobs
        }


def phases(study: Study, last: str | None = None) -> list[Phase]:
    """The phases of a study in order, up to the stage `last`, or all of them. Raises ConfigError
    for a stage that the study does not have.
    """
    if last is not None and last not in study.stages:
        stages = ", ".join(filter(None, study.stages))
        known = f"the stages are {stages}" if stages else "this study has none, so leave it out"
        raise ConfigError(f"there is no stage {last!r}; {known}")
    found = []
    if study.tune is not None:
        # tuned by the metric alone: the rest of what a run is measured by would cost and not count
        plain: dict[str, Any] = {"also": (), "looks": (), "probes": (), "outcomes": {}, "times": {}}
        jobs = [
            Job(arm, seed, "", point)
            for arm, seed in balanced(list(study.arms), study.tune.seeds)
            for point in study.tune.points(arm)
        ]
        found.append(Phase(study.model_copy(update=plain), TUNING, tuple(jobs)))
    for stage in study.stages:
        order = balanced(list(study.arms), study.seeds)
        found.append(Phase(study, RESULTS, tuple(Job(arm, seed, stage) for arm, seed in order)))
        if stage == last:
            break
    return found


def balanced(arms: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Every arm with every seed, seed by seed, each seed beginning with another arm: a machine that
    slows down slows all arms alike.
    """
    return [
        (arms[(index + turn) % len(arms)], seed)
        for turn, seed in enumerate(seeds)
        for index in range(len(arms))
    ]


@contextmanager
def local_executor(jobs: int, threads: int, *, nice: bool = False) -> Iterator[JobExecutor]:
    """Processes on this machine: `jobs` at a time, each with `threads` threads, each for one run,
    so that its peak memory is the run's own. nice: at the lowest priority.

    An interrupt from the keyboard reaches these processes too: they save, and stop.
    """
    begin = (threads, NICE if nice else 0)
    with SpawnedPool(jobs, begin_process, begin, max_tasks_per_child=1) as pool:
        yield pool


def run_study(
    study: Study,
    folder: Path,
    open_inputs: OpenInputs,
    executor: JobExecutor,
    last: str | None = None,
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Do the runs that have no record yet, up to the stage `last`, or all; yields each with its
    record, once that is on disk, in the order in which they end.

    Raises ConfigError where code, data or an arm's recipe changed since the runs that are there,
    and says which, and where another process runs the study; TrainingError, after all others of
    their phase have ended, for runs that failed.
    """
    for phase in phases(study, last):
        if phase.unfinished(folder):
            origin = provenance(study, folder)
            yield from _run_phase(phase, folder, origin, open_inputs, executor)


def _run_phase(
    phase: Phase,
    folder: Path,
    origin: Mapping[str, Any],
    open_inputs: OpenInputs,
    executor: JobExecutor,
) -> Iterator[tuple[Job, dict[str, Any]]]:
    study, jobs = phase.study, phase.unfinished(folder)
    arms = phase.arms(folder)
    check_unchanged(
        read_records(folder / phase.file),
        arms,
        lambda arm: open_inputs(arm.recipe, study)[0].data_hash,
        folder,
    )
    with _alone(folder):
        pending = {
            job: executor.submit(run_job, arms[job], job, study, folder, origin, open_inputs)
            for job in jobs
        }
        failed: dict[Job, Exception] = {}
        while pending:
            ended = [job for job, handle in pending.items() if handle.done()]
            # a record is on disk before the run's folder goes: a kill between repeats no run
            for job in ended:
                try:
                    record = pending.pop(job).result()
                except Exception as error:  # of any kind: it came from another process
                    failed[job] = error
                    continue
                append_record(folder / phase.file, record)
                shutil.rmtree(job.folder(folder))
                yield job, record
            if not ended:
                time.sleep(0.05)
    if failed:
        reasons = "; ".join(f"{job.name}: {error}" for job, error in failed.items())
        raise TrainingError(
            f"{len(failed)} of {len(jobs)} runs failed; the same command goes on with them."
            f" {reasons}"
        ) from next(iter(failed.values()))


def check_unchanged(
    records: Sequence[dict[str, Any]],
    arms: Mapping[Job, Arm],
    data_hash: Callable[[Arm], str],
    folder: Path,
) -> None:
    """Raise ConfigError if any of these runs was done with other code, other data or another recipe
    than a new one would be.
    """
    done = {Job.of(record): record for record in records}
    # arms without a run yet may change freely
    begun = [job for job in arms if job in done]
    data = {
        arm.name: data_hash(arm) for arm in {arms[job].name: arms[job] for job in begun}.values()
    }
    changed, code = set(), code_hash()
    for job in begun:
        hashes = {
            "code_hash": (code, "the code, or PyTorch's version"),
            "data_hash": (data[job.arm], "the data or the tokenizer"),
            "recipe_hash": (arm_hash(arms[job].recipe), f"the recipe of the arm {job.arm}"),
        }
        changed |= {what for key, (now, what) in hashes.items() if done[job][key] != now}
    if changed:
        raise ConfigError(
            f"{' and '.join(sorted(changed))} changed since the first runs of {folder}: their"
            " results would not compare; undo the change, or move results.jsonl away and start"
            " anew"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the study; ConfigError where another process does. The system lets go of it when this
    process ends, however it ends.
    """
    (folder / "runs").mkdir(exist_ok=True)
    try:
        with FileLock(folder / "runs" / "lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another process is running {folder}: wait for it, or stop it"
        ) from error
