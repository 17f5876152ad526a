"""One run of a study: an arm with a seed, trained, measured at its looks and its end, as a record.

It goes on after a kill: training from its newest checkpoint, and what was measured at earlier looks
from `looks.json` in the run's folder.
"""

import datetime
import json
import multiprocessing
import os
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from puna.device import processor_name
from puna.durable import write_json
from puna.errors import TrainingError
from puna.run_log import finite, read_run_log
from puna.study.arms import Arm
from puna.study.definition import Overrides, Study
from puna.study.probes import PROBES
from puna.study.results import code_hash
from puna.study.run_metrics import METRICS, MeasuredModel, StudyText
from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs
from puna.training.stored_recipe import recipe_hash
from puna.training.trainer import Trainer

OpenInputs = Callable[[Recipe, Study], tuple[RunInputs, StudyText]]
"""From a recipe and its study to what a run needs, and to the text that it is measured on."""


@dataclass(frozen=True)
class Job:
    """One run of a study. point: of the grid, in a run that tunes its arm."""

    arm: str
    seed: int
    stage: str = ""
    point: Overrides = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Job":
        """The job that left a record."""
        point = tuple(record.get("point", ()))
        return cls(record["arm"], record["seed"], record.get("stage", ""), point)

    @property
    def name(self) -> str:
        """The arm, the stage, the seed and the point in words."""
        words = [f"{self.arm},", *([f"{self.stage},"] if self.stage else []), f"seed {self.seed}"]
        return " ".join([*words, *(f"with {override}" for override in self.point)])

    def folder(self, study: Path) -> Path:
        """The folder in which it runs, until its record is written."""
        parts = [self.arm, *([self.stage] if self.stage else []), *self.point, str(self.seed)]
        return study / "runs" / "-".join(parts).replace("/", "_")


def run_job(
    arm: Arm,
    job: Job,
    study: Study,
    folder: Path,
    provenance: Mapping[str, Any],
    open_inputs: OpenInputs,
) -> dict[str, Any]:
    """Train one arm with one seed and give its record, `provenance` included; goes on from the
    run's newest checkpoint. The run's folder stays.

    Raises TrainingError where it was interrupted, or the process that asked for it has gone: what
    is trained by then is saved.
    """
    run = job.folder(folder)
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / "lock"):  # a run whose study was killed may still be saving
        started, begun = datetime.datetime.now(datetime.UTC), time.perf_counter()
        recipe = seeded(arm.recipe, job.seed, run)
        inputs, text = open_inputs(recipe, study)
        trainer = Trainer(recipe, run, inputs)
        measure = _Measurement(study, trainer, text)
        begin = measure.probes()
        trainer.start(resume=(run / "recipe.yaml").exists())
        looks: list[dict[str, Any]] = []
        end, diverged = None, ""
        try:
            for look in _looks(trainer, study, measure):
                looks.append(look)
            end = measure(study.metrics, documents=True)
        except TrainingError as error:
            if _told_to_stop():
                raise
            diverged = str(error)  # its gradients were not finite for many steps
        log = read_run_log(run / "metrics.jsonl")
    end = end or {**dict.fromkeys(study.metrics), "documents": [], "probes": {}}
    return {
        "arm": arm.name,
        "seed": job.seed,
        "stage": job.stage,
        **({"point": list(job.point)} if job.point else {}),
        **end,
        "diverged": diverged,
        "parameters": arm.parameters,
        "flops_per_token": arm.flops_per_token,
        "tokens": trainer.progress.step * recipe.tokens_per_step,
        "looks": looks,
        "curve": [
            [line["tokens"], line["bits_per_byte"]] for line in log if line["kind"] == "validation"
        ],
        "gradient_norms": [
            [line["step"], line["gradient_norm"]] for line in log if line["kind"] == "train"
        ],
        "probes": {"start": begin, "end": end["probes"]},
        "machine": _machine()
        | {
            "seconds": round(time.perf_counter() - begun, 2),
            "train_seconds": round(trainer.progress.seconds, 2),
        },
        "started": started.isoformat(timespec="seconds"),
        **provenance,
        "recipe_hash": arm_hash(arm.recipe),
        "code_hash": code_hash(),
        "data_hash": inputs.data_hash,
        "text_hash": text.hash,
    }


def _machine() -> dict[str, Any]:
    """The machine of this run, and the most memory that it took."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def seeded(recipe: Recipe, seed: int, run: Path) -> Recipe:
    """The recipe of one run: the seed decides the weights and the order of the data."""
    return recipe.model_copy(update={"seed": seed, "run": str(run)})


def arm_hash(recipe: Recipe) -> str:
    """The hash of an arm's recipe, the same for all of its seeds."""
    return recipe_hash(recipe.model_copy(update={"seed": 0}))


class _Measurement:
    """All that a study asks of a run's model, as it is now; the probes see the same batch each
    time.
    """

    def __init__(self, study: Study, trainer: Trainer, text: StudyText) -> None:
        self.study, self.trainer, self.text = study, trainer, text
        # without the last target, which may lie beyond the model's context
        ids = torch.from_numpy(trainer.inputs.batch(0)[:, :-1])
        self.batch = ids.to(trainer.device)

    def probes(self) -> dict[str, Any]:
        return {name: PROBES[name](self.trainer.model, self.batch) for name in self.study.probes}

    def __call__(self, metrics: Sequence[str], *, documents: bool = False) -> dict[str, Any]:
        model = MeasuredModel(self.trainer.model, self.text, self.trainer.recipe.context_length)
        measured: dict[str, Any] = {name: finite(METRICS[name].measure(model)) for name in metrics}
        if documents:
            measured["documents"] = [finite(bits) for bits in model.bits_by_document]
        return {**measured, "probes": self.probes()}


def _looks(trainer: Trainer, study: Study, measure: _Measurement) -> Iterator[dict[str, Any]]:
    """Train to the last step, and give what is measured at each look on the way."""
    path, steps = trainer.run / "looks.json", trainer.recipe.train.steps
    looks: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    yield from looks
    at = [max(1, round(share * steps)) for share in study.looks]
    for step in at[len(looks) :]:
        _train(trainer, step)
        looks.append({"tokens": step * trainer.recipe.tokens_per_step, **measure(study.looked_at)})
        write_json(path, looks)
        yield looks[-1]
    _train(trainer, steps)


def _train(trainer: Trainer, until: int) -> None:
    trainer.train(stop=_told_to_stop, until=until)
    if trainer.progress.step < until:
        raise TrainingError(
            f"{trainer.run} was stopped at step {trainer.progress.step} and saved; run the study"
            " again to go on"
        )


_interrupted = threading.Event()


def begin_process(threads: int, niceness: int) -> None:
    """Prepare a process that runs jobs: its threads, its priority (0 leaves it), and an interrupt
    from the keyboard that saves first.
    """
    os.nice(niceness)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, lambda *_: _interrupted.set())


def _told_to_stop() -> bool:
    """True in a process of `local_executor` that was interrupted, or whose parent was
    killed.
    """
    parent = multiprocessing.parent_process()
    return _interrupted.is_set() or (parent is not None and not parent.is_alive())
