"""Running a study: every arm with every seed, each in a process of its own, in a balanced order,
going on after a kill.

Not here: how a recipe's data are opened, which the caller passes in as functions that another
process can import, and where the processes run: any executor with `submit` will do, such as the
standard library's or submitit's.
"""

import multiprocessing
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from puna.errors import ConfigError, TrainingError
from puna.run_log import finite, read_run_log
from puna.spawn import SpawnedPool
from puna.study.definition import Arm, Study, resolve_arms, seeded
from puna.study.probes import PROBES
from puna.study.results import append_result, code_hash, read_results
from puna.study.run_metrics import METRICS, FinishedRun
from puna.training.recipe import Recipe
from puna.training.stored_recipe import recipe_hash
from puna.training.trainer import RunInputs, Trainer

OpenInputs = Callable[[Recipe], tuple[RunInputs, Callable[..., FinishedRun]]]
"""From a recipe to what its run needs, and to the validation text for the finished model."""


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
class Job:
    """One run of a study."""

    arm: str
    seed: int

    def folder(self, study: Path) -> Path:
        """The folder in which it runs, until its record is written."""
        return study / "runs" / f"{self.arm}-{self.seed}"


def schedule(study: Study) -> list[Job]:
    """Every run, seed by seed, each seed beginning with another arm: a machine that slows down
    slows all arms alike.
    """
    arms = list(study.arms)
    return [
        Job(arms[(index + turn) % len(arms)], seed)
        for turn, seed in enumerate(study.seeds)
        for index in range(len(arms))
    ]


@contextmanager
def local_executor(jobs: int, threads: int) -> Iterator[JobExecutor]:
    """Processes on this machine: `jobs` at a time, each with `threads` threads, each for one run,
    so that its peak memory is the run's own.

    An interrupt from the keyboard reaches these processes too: they save, and stop.
    """
    with SpawnedPool(jobs, _begin, (threads,), max_tasks_per_child=1) as pool:
        yield pool


def unfinished(study: Study, folder: Path) -> list[Job]:
    """The runs that are not in `results.jsonl` yet, in the order of the schedule."""
    finished = {(record["arm"], record["seed"]) for record in read_results(folder)}
    return [job for job in schedule(study) if (job.arm, job.seed) not in finished]


def run_study(
    study: Study, folder: Path, open_inputs: OpenInputs, executor: JobExecutor
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Do the runs that are not in `results.jsonl` yet; yields each with its record, once that is on
    disk, in the order in which they end.

    Raises ConfigError where code, data or an arm's recipe changed since the runs that are there,
    and says which, and where another process runs the study; TrainingError, after all others have
    ended, for runs that failed.
    """
    jobs = unfinished(study, folder)
    if not jobs:
        return
    arms = resolve_arms(study, folder)
    check_unchanged(
        read_results(folder), arms, lambda arm: open_inputs(arm.recipe)[0].data_hash, folder
    )
    with _alone(folder):
        pending = {
            job: executor.submit(run_job, arms[job.arm], job, study, folder, open_inputs)
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
                append_result(folder, record)
                shutil.rmtree(job.folder(folder))
                yield job, record
            if not ended:
                time.sleep(0.05)
    if failed:
        reasons = "; ".join(f"{job.arm}, seed {job.seed}: {error}" for job, error in failed.items())
        raise TrainingError(
            f"{len(failed)} of {len(jobs)} runs failed; the same command goes on with them."
            f" {reasons}"
        ) from next(iter(failed.values()))


def check_unchanged(
    records: Sequence[dict[str, Any]],
    arms: dict[str, Arm],
    data_hash: Callable[[Arm], str],
    folder: Path,
) -> None:
    """Raise ConfigError if any of these runs was done with other code, other data or another recipe
    than a new one would be.
    """
    changed = set()
    # arms without a run yet may change freely
    for name in {record["arm"] for record in records} & set(arms):
        hashes = {
            "code_hash": (code_hash(), "the code, or PyTorch's version"),
            "data_hash": (data_hash(arms[name]), "the data or the tokenizer"),
            "recipe_hash": (_arm_hash(arms[name].recipe), f"the recipe of the arm {name}"),
        }
        for record in records:
            if record["arm"] == name:
                changed |= {what for key, (now, what) in hashes.items() if record[key] != now}
    if changed:
        raise ConfigError(
            f"{' and '.join(sorted(changed))} changed since the first runs of {folder}: their"
            " results would not compare; undo the change, or move results.jsonl away and start"
            " anew"
        )


def run_job(
    arm: Arm, job: Job, study: Study, folder: Path, open_inputs: OpenInputs
) -> dict[str, Any]:
    """Train one arm with one seed and give its record; goes on from the run's newest checkpoint.
    The run's folder stays.

    Raises TrainingError where it was interrupted, or the process that asked for it has gone: what
    is trained by then is saved.
    """
    run = job.folder(folder)
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / "lock"):  # a run whose study was killed may still be saving
        recipe = seeded(arm.recipe, job.seed, run)
        inputs, finished_run = open_inputs(recipe)
        trainer = Trainer(recipe, run, inputs)
        # the probes see the same batch at the start and at the end
        first = torch.from_numpy(inputs.batch(0)).to(trainer.device)
        probes = {
            "start": {name: PROBES[name](trainer.model, first) for name in study.probes},
            "end": {},
        }
        trainer.start(resume=(run / "recipe.yaml").exists())
        measured, diverged = dict.fromkeys(study.metrics), ""
        try:
            if not trainer.train(stop=_told_to_stop):
                raise TrainingError(
                    f"{run} was stopped at step {trainer.progress.step} and saved; run the study"
                    " again to go on"
                )
            done = finished_run(trainer.model)
            measured = {name: finite(METRICS[name].measure(done)) for name in study.metrics}
            probes["end"] = {name: PROBES[name](trainer.model, first) for name in study.probes}
        except TrainingError as error:
            if _told_to_stop():
                raise
            diverged = str(error)  # its gradients were not finite for many steps
        log = read_run_log(run / "metrics.jsonl")
    return {
        "arm": arm.name,
        "seed": job.seed,
        **measured,
        "diverged": diverged,
        "parameters": arm.parameters,
        "flops_per_token": arm.flops_per_token,
        "tokens": trainer.progress.step * recipe.tokens_per_step,
        "curve": [
            [line["tokens"], line["bits_per_byte"]] for line in log if line["kind"] == "validation"
        ],
        "gradient_norms": [
            [line["step"], line["gradient_norm"]] for line in log if line["kind"] == "train"
        ],
        "probes": probes,
        "machine": {
            "train_seconds": round(trainer.progress.seconds, 2),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "threads": torch.get_num_threads(),
        },
        "recipe_hash": _arm_hash(arm.recipe),
        "code_hash": code_hash(),
        "data_hash": inputs.data_hash,
    }


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


_interrupted = threading.Event()


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, lambda *_: _interrupted.set())


def _told_to_stop() -> bool:
    """True in a process of `local_executor` that was interrupted, or whose parent was
    killed.
    """
    parent = multiprocessing.parent_process()
    return _interrupted.is_set() or (parent is not None and not parent.is_alive())


def _arm_hash(recipe: Recipe) -> str:
    return recipe_hash(recipe.model_copy(update={"seed": 0}))
