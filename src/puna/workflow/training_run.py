"""Training run as one function: data that is missing, training, measurement, and the files of a
finished run.

    RUN/baselines.json        what compressors and an n-gram model make of the held-out text
    RUN/recipe.yaml, metrics.jsonl, checkpoints/, best.json   while it trains
    RUN/model/                the model folder: loads here and in transformers
    RUN/summary.json          sizes, speed and scores; units are in the names
    RUN/samples.json          texts that the model continued

What it is not: it draws nothing and handles no signal; both are the caller's, through observers and
`stop`. The page of a run is `puna.report.run_report.write_run_report`.
"""

import datetime
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from puna.durable import new_folder, write_json
from puna.errors import ConfigError, TrainingError
from puna.eval.primed_baselines import PrimedBaselines
from puna.inference.language_model import LanguageModel
from puna.model.accounting import count_parameters
from puna.model.weights import write_model
from puna.run_log import read_run_log
from puna.spinning import limit_spinning
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.checkpoint import Progress
from puna.training.distributed import ALONE, Ranks
from puna.training.recipe import Recipe, overridden_recipe, read_recipe
from puna.training.stored_recipe import read_stored_recipe, recipe_hash
from puna.training.trainer import Trainer
from puna.workflow.evaluation import (
    PRIMING_BYTES,
    Evaluation,
    primed_baselines,
    score_beside_baselines,
)
from puna.workflow.missing_data import make_missing_data
from puna.workflow.observer import RunObserver
from puna.workflow.run_data import RunData, open_data

BASELINES = "baselines.json"
SAMPLE_PROMPTS, PROMPT_TOKENS = 4, 24
BASELINE_BYTES = 20_000_000  # xz takes about a second a megabyte
PRIMING_MINUTES = 2  # of a run, from which on primed baselines read all that they may
LEAST_BYTES = 1 << 12  # that a run of any length reads


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended, at its last step or because it was asked to stop.

    folder: the run's. finished: False where it was stopped; `train(..., resume=True)` goes on.
    step: updates done. model: the trained model with its tokenizer, ready to generate. summary:
    what summary.json holds; empty while the run is unfinished.
    """

    folder: Path
    finished: bool
    step: int
    model: LanguageModel
    summary: Mapping[str, Any]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl in the order of their steps; `kind` is `train` or
        `validation`, and units are as docs/glossary.md says.
        """
        return read_run_log(self.folder / "metrics.jsonl")


def train(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    observers: Sequence[RunObserver] = (),
    ranks: Ranks = ALONE,
) -> TrainedRun:
    """Train a model from a recipe: make the tokenizer and data that are missing, train, measure,
    and write the model folder.

    recipe: a YAML file, its values, or a validated `Recipe`; paths in it are relative to the
    working directory. overrides: `section.key=value`, as on the command line. resume: continue the
    run in the recipe's folder from its newest checkpoint, to the same weights as without the pause;
    `puna.training.stored_recipe.CHANGEABLE` are the keys that may differ from those it began with.
    stop: asked before every step; once it says True the run saves and returns. observers: told of
    progress. ranks: the processes that train together, each of which calls this, as
    `puna.training.distributed.join` gives them; the first alone prepares, writes, measures and
    tells the observers, and the others return its model without a summary.

    Raises ConfigError for a recipe that breaks a rule or a device that is not there, DataError for
    sources or shards that cannot be read, TrainingError for a model that does not fit in memory, a
    folder that holds another run or is in use, a `train.init_from` that does not fit, and gradients
    that stay non-finite.
    """
    limit_spinning()
    recipe = resolve_recipe(recipe, overrides)
    prepare = partial(_prepare, recipe, observers)
    ranks.on_first("data", prepare)
    data = open_data(recipe, ranks)
    recipe = data.recipe
    ranks.require_same(
        recipe=recipe_hash(recipe), data=data.inputs.data_hash, torch=torch.__version__
    )
    _reject_other_tokenizer(recipe, data.tokenizer)
    trainer = Trainer(recipe, Path(recipe.run or ""), data.inputs, tuple(observers), ranks)
    trainer.start(resume)
    # a finished run may be resumed to more steps
    if ranks.is_first and trainer.progress.step < trainer.planned_steps:
        (trainer.run / "summary.json").unlink(missing_ok=True)
    measure = partial(_primed_baselines, trainer, data, observers)
    primed, seconds = ranks.on_first("baselines", measure)
    trainer.progress = trainer.progress.spent(seconds)
    for observer in observers:
        observer.training(trainer)
    finished = trainer.train(stop=stop)
    for observer in observers:
        observer.trained(finished)
    llama = LanguageModel(trainer.model, data.tokenizer)
    summary: dict[str, Any] = {}
    if finished and ranks.is_first:
        summary = _measure(trainer, data, llama, PrimedBaselines(**primed), observers)
    return TrainedRun(trainer.run, finished, trainer.progress.step, llama, summary)


def _prepare(recipe: Recipe, observers: Sequence[RunObserver]) -> None:
    make_missing_data(recipe, observers, again=_same_data(Path(recipe.run or ""), recipe))


def _same_data(run: Path, recipe: Recipe) -> bool:
    """True where no run would lose its data if the recipe's were prepared again."""
    return not (run / "recipe.yaml").exists() or read_stored_recipe(run).data == recipe.data


def _reject_other_tokenizer(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Raise TrainingError where the ids of the model to start from mean other text."""
    folder = recipe.train.init_from
    if folder and Tokenizer.load(folder).hash != tokenizer.hash:
        raise TrainingError(
            f"train.init_from {folder} has another tokenizer than {recipe.tokenizer.path}: set"
            f" tokenizer.path={folder} and prepare the data with it, or leave out train.init_from"
        )


def resolve_recipe(
    recipe: Recipe | Mapping[str, Any] | Path | str, overrides: Sequence[str] = ()
) -> Recipe:
    """The recipe with its overrides, validated. Raises ConfigError that names every broken rule,
    and for values that name no run folder.
    """
    if isinstance(recipe, str | Path):
        return read_recipe(Path(recipe), overrides)
    values = recipe.model_dump() if isinstance(recipe, Recipe) else dict(recipe)
    resolved = overridden_recipe(values, overrides, "the recipe")
    if resolved.run is None:
        raise ConfigError("the recipe names no run folder: add run, such as runs/first")
    return resolved


def priming_bytes(recipe: Recipe) -> int:
    """Bytes of training text that the baselines of a run read at most: `PRIMING_BYTES`, or fewer
    where `train.minutes` are fewer than `PRIMING_MINUTES`.

    By the square of the minutes, so that a short run gives them a smaller share of its time: the
    samples and the page at its end take it as long as a long one. By the figures of
    eval/primed_baselines.py that is 2% of one core's time in a third of a minute, 6% in one, 13% in
    two, and less from then on.
    """
    minutes = recipe.train.minutes
    share = 1.0 if minutes is None else min(1.0, minutes / PRIMING_MINUTES)
    return max(LEAST_BYTES, round(PRIMING_BYTES * share**2))


def _primed_baselines(
    trainer: Trainer, data: RunData, observers: Sequence[RunObserver]
) -> tuple[dict[str, Any], float]:
    """The values of `PrimedBaselines` that have read the training text, measured once for a run,
    and the seconds that it took.

    Before it trains: its time counts to a run's minutes, and is not known before.
    """
    path = trainer.run / BASELINES
    if path.exists():
        return json.loads(path.read_text()), 0.0
    for observer in observers:
        observer.measuring_baselines()
    begin = time.perf_counter()
    measured = primed_baselines(
        data.tokenizer,
        data.held_out(trainer.recipe),
        data.training_text(priming_bytes(trainer.recipe)),
        BASELINE_BYTES,
    )
    write_json(path, asdict(measured))
    return asdict(measured), time.perf_counter() - begin


def _measure(
    trainer: Trainer,
    data: RunData,
    llama: LanguageModel,
    primed: PrimedBaselines,
    observers: Sequence[RunObserver],
) -> dict[str, Any]:
    """Score the finished model beside the baselines, sample from it, and write model, summary and
    samples. summary.json comes last: where it is, the others are.
    """
    recipe, run = trainer.recipe, trainer.run
    for observer in observers:
        observer.measuring()
    found = score_beside_baselines(
        llama,
        data.held_out(recipe),
        context=recipe.context_length,
        stride=recipe.context_length,
        mask_documents=recipe.train.mask_documents,
        primed=primed,
        max_baseline_bytes=BASELINE_BYTES,
    )
    for observer in observers:
        observer.sampling()
    write_json(run / "samples.json", _samples(llama, data))
    with new_folder(run / "model") as aside:
        write_model(
            aside,
            trainer.model,
            **data.inputs.special_ids,
            provenance=trainer.provenance() | {"metrics": _model_metrics(found)},
        )
        data.tokenizer.save(aside)
    summary = summarise(trainer, found)
    write_json(run / "summary.json", summary)
    return summary


def _model_metrics(found: Evaluation) -> dict[str, float]:
    """The scores that are kept with a model, in puna.json and in summary.json."""
    return {"val_loss": found.loss, "val_bits_per_byte": found.bits_per_byte}


def summarise(trainer: Trainer, found: Evaluation) -> dict[str, Any]:
    """The values of summary.json for a finished run; units are in the names."""
    recipe, seconds = trainer.recipe, trainer.progress.seconds
    tokens = trainer.progress.step * recipe.tokens_per_step
    records = [
        record
        for record in read_run_log(trainer.run / "metrics.jsonl")
        if record["kind"] == "train"
    ]
    # one record's, because after a resume not all are against the same peak
    median = sorted(records, key=lambda record: float(record["mfu"]))[(len(records) - 1) // 2]
    return {
        "parameters": count_parameters(recipe.model).total,
        "tokens": tokens,
        "train_seconds": round(seconds, 2),
        **_time_budget(trainer.progress, recipe),
        "tokens_per_second": round(tokens / seconds, 1),
        "mfu": round(median["mfu"], 4),
        # records of a run that an earlier release began have none
        "matmul_peak_gflops": round(median.get("matmul_peak_gflops", trainer.peak / 1e9), 1),
        **_model_metrics(found),
        "val_perplexity": found.perplexity,
        "val_bytes": found.bytes,
        "val_targets": found.targets,
        "val_all_targets": found.all_targets,
        "model": str(trainer.run / "model"),
        "device": (
            torch.cuda.get_device_name()
            if trainer.device.type == "cuda"
            else f"{platform.machine()} CPU"
        ),
        "threads": torch.get_num_threads(),
        "dtype": trainer.precision,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "puna_version": version("puna"),
        "torch_version": torch.__version__,
        "recipe_hash": recipe_hash(recipe),
        "gzip_bits_per_byte": found.gzip_bits_per_byte,
        "xz_bits_per_byte": found.xz_bits_per_byte,
        **_primed(found),
    }


def _primed(found: Evaluation) -> dict[str, Any]:
    """The primed baselines as summary.json has them."""
    if found.primed is None:
        return {}
    return {
        "primed_bits_per_byte": found.primed.bits_per_byte,
        "primed_read_bytes": found.primed.read_bytes,
        "primed_all_bytes": found.primed.all_bytes,
        "baseline_bytes": found.primed.scored_bytes,
    }


def _time_budget(progress: Progress, recipe: Recipe) -> dict[str, Any]:
    """The values on how the steps of a run came to fit in its minutes, where it had a budget."""
    if progress.plan is None:
        return {}
    return {
        "steps": progress.step,
        "most_steps": recipe.train.steps,
        "budget_seconds": round(progress.plan.budget, 2),
        "beside_seconds": round(progress.plan.beside, 2),
    }


def _samples(llama: LanguageModel, data: RunData) -> list[dict[str, str]]:
    """Continuations of the openings of some validation documents."""
    samples = []
    documents = data.validation[0].documents()
    for seed, ids in zip(range(SAMPLE_PROMPTS), documents, strict=False):
        opening = ids[:PROMPT_TOKENS].tolist()
        pieces = llama.stream(opening, max_tokens=120, temperature=0.7, top_p=0.9, seed=seed)
        prompt = data.tokenizer.decode(opening, skip_special=True)
        samples.append({"prompt": prompt, "text": "".join(text for _, text in pieces)})
    return samples


def read_summary(run: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None while it is unfinished."""
    try:
        summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    except FileNotFoundError:
        return None
    return summary
