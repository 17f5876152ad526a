"""The wiring of a run: make the data that is missing, train, measure, write the model folder, the
summary and the report.

`puna train`, `puna verify-resume` and `puna quickstart` are thin over this.
"""

import datetime
import hashlib
import json
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console

from puna.cli.progress import RunProgress, preparation_progress
from puna.data.loader import Loader
from puna.data.manifest import Manifest
from puna.data.prepare import prepare
from puna.data.shards import TokenStream, open_split
from puna.data.sources import read_texts
from puna.durable import new_folder, write_json
from puna.errors import DataError
from puna.eval.bits_per_byte import Score, score_tokens
from puna.eval.yardsticks import gzip_bits_per_byte, xz_bits_per_byte
from puna.inference.language_model import LanguageModel
from puna.model.accounting import count_parameters
from puna.model.transformer import Transformer
from puna.model.weights import write_model
from puna.report.metrics import read_metrics
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.training import take_turns
from puna.train.recipe import CorpusRecipe, Recipe
from puna.train.trainer import RunInputs, Trainer, Validation, recipe_hash

SAMPLE_PROMPTS, PROMPT_TOKENS = 4, 24
YARDSTICK_BYTES = 20_000_000  # xz takes about a second a megabyte


@dataclass(frozen=True)
class RunData:
    """The opened data of a run."""

    tokenizer: Tokenizer
    validation: list[TokenStream]
    inputs: RunInputs

    def held_out(self, limit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Up to `limit` held-out ids, an equal part from each corpus."""
        part = limit // len(self.validation)
        return np.concatenate(
            [stream.read(0, min(part, stream.num_tokens)) for stream in self.validation]
        )

    def held_out_text(self, limit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The ids of up to `limit` bytes of held-out text, an equal part from each corpus: the same
        text for every tokenizer.
        """
        part, lengths = limit // len(self.validation), self.tokenizer.token_lengths()
        # hardly a token has less than a byte
        parts = (stream.read(0, min(part, stream.num_tokens)) for stream in self.validation)
        return np.concatenate(
            [ids[: int(np.searchsorted(lengths[ids].cumsum(), part))] for ids in parts]
        )


def make_missing_data(recipe: Recipe, console: Console) -> None:
    """Train the tokenizer and prepare the corpora that are not on disk yet; continue what was
    interrupted.
    """
    folder = Path(recipe.tokenizer.path)
    if not (folder / "tokenizer.json").exists():
        texts = [
            read_texts([source]) for corpus in recipe.data.mixture for source in _sources(corpus)
        ]
        with console.status(f"training a tokenizer of {recipe.tokenizer.vocab_size:,} entries"):
            tokenizer = Tokenizer.train(
                take_turns(texts),
                recipe.tokenizer.vocab_size,
                recipe.tokenizer.digits,
                recipe.tokenizer.max_bytes,
            )
        tokenizer.save(folder)
        console.print(f"tokenizer: {tokenizer.vocab_size:,} entries in {folder}", highlight=False)
    tokenizer = Tokenizer.load(folder)
    for corpus in recipe.data.mixture:
        if (Path(corpus.path) / "manifest.json").exists():
            _refuse_other_sources(corpus)
            continue
        with preparation_progress(console) as on_progress:
            manifest = prepare(
                _sources(corpus),
                tokenizer,
                corpus.path,
                validation_fraction=recipe.data.validation_fraction,
                piece_characters=recipe.data.piece_characters,
                on_progress=on_progress,
            )
        parts = ", ".join(
            f"{split.tokens:,} {name} tokens" for name, split in manifest.splits.items()
        )
        console.print(f"data: {parts} in {corpus.path}", highlight=False)


def _refuse_other_sources(corpus: CorpusRecipe) -> None:
    """What lies there must be what the recipe names; that its files changed since is no reason not
    to train on it.
    """
    before = tuple(source.name for source in Manifest.load(corpus.path).inputs.sources)
    if corpus.sources and corpus.sources != before:
        raise DataError(
            f"{corpus.path} was prepared from {', '.join(before)}, but the recipe names"
            f" {', '.join(corpus.sources)}: delete the folder or name another"
        )


def _sources(corpus: CorpusRecipe) -> tuple[str, ...]:
    if not corpus.sources:
        raise DataError(
            f"{corpus.path} is not a prepared data folder, and its part of data.mixture names no"
            " sources to prepare it from: add sources, or run puna data prepare"
        )
    return corpus.sources


def open_data(recipe: Recipe) -> RunData:
    """Open tokenizer and shards, check that they belong together and to the model, and give the
    trainer what it needs.
    """
    tokenizer = Tokenizer.load(recipe.tokenizer.path)
    if tokenizer.vocab_size > recipe.model.vocab_size:
        raise DataError(
            f"the tokenizer in {recipe.tokenizer.path} has {tokenizer.vocab_size} entries, but"
            f" model.vocab_size is {recipe.model.vocab_size}: set"
            f" tokenizer.vocab_size={tokenizer.vocab_size}"
        )
    folders = {corpus.path: corpus.weight for corpus in recipe.data.mixture}
    train = {path: open_split(path, "train") for path in folders}
    validation = [open_split(path, "validation") for path in folders]
    for path, stream in train.items():
        if stream.manifest.inputs.tokenizer_hash != tokenizer.hash:
            raise DataError(
                f"{path} was prepared with another tokenizer than {recipe.tokenizer.path}: prepare"
                " it again"
            )
    loader = Loader(
        train,
        folders,
        context_length=recipe.context_length,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
    )
    lengths = tokenizer.token_lengths()
    hashes = "\n".join(stream.manifest.content_hash for stream in train.values())
    special = {"bos_id": tokenizer.bos_id, "eos_ids": (tokenizer.eos_id,)}

    def validate(model: Transformer) -> Validation:
        score = score_tokens(
            model,
            data.held_out(recipe.train.validation_tokens),
            lengths,
            context=recipe.context_length,
        )
        return Validation(score.loss, score.bits_per_byte)

    inputs = RunInputs(
        batch=loader.batch,
        validate=validate,
        bytes_per_token=sum(s.num_bytes for s in train.values())
        / sum(s.num_tokens for s in train.values()),
        data_hash=hashlib.sha256(hashes.encode()).hexdigest()[:16],
        write_tokenizer=tokenizer.save,
        special_ids=special,
    )
    data = RunData(tokenizer, validation, inputs)
    return data


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM add their number to the list that is yielded, so that the step at hand
    ends; a second one interrupts.
    """
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_run(
    recipe: Recipe,
    run: Path,
    console: Console,
    *,
    resume: bool,
    tensorboard: bool = False,
    again: str = "with --resume",
) -> tuple[Trainer, RunData]:
    """Train a recipe in a folder to its end. A signal saves, says how to go on and exits with 128 +
    its number.

    again: how the same command is to be given to go on.
    """
    make_missing_data(recipe, console)
    data = open_data(recipe)
    progress = RunProgress(console, recipe, run)
    observers = (progress, _tensorboard(run)) if tensorboard else (progress,)
    trainer = Trainer(recipe, run, data.inputs, observers)
    trainer.start(resume)
    console.print(
        f"{count_parameters(recipe.model).total:,} parameters on {trainer.device},"
        f" {trainer.precision}, matmul peak {trainer.peak / 1e9:,.0f} GFLOP/s (measured)",
        highlight=False,
    )
    with stop_on_signals() as received, progress:
        finished = trainer.train(stop=lambda: bool(received))
    if not finished:
        console.print(
            f"stopped and saved at step {trainer.progress.step}; the same command {again} goes on"
        )
        raise SystemExit(128 + received[0])
    return trainer, data


def _tensorboard(run: Path) -> Any:
    from puna.cli.tensorboard import TensorBoard

    return TensorBoard(run / "tensorboard")


def measure_run(trainer: Trainer, data: RunData, console: Console) -> dict[str, Any]:
    """Score the finished model beside the compressors, sample from it, and write model, summary,
    samples and report.
    """
    # matplotlib takes a second, which a run need not wait for at its start
    from puna.report.run_report import write_run_report

    recipe, run, model = trainer.recipe, trainer.run, trainer.model
    with console.status("measuring on held-out text"):
        ids = data.held_out(recipe.train.validation_tokens * 10)
        lengths = data.tokenizer.token_lengths()
        score = score_tokens(model, ids, lengths, context=recipe.context_length)
        text = data.tokenizer.decode_bytes(ids.tolist(), skip_special=True)[:YARDSTICK_BYTES]
        yardsticks = {
            "gzip_bits_per_byte": gzip_bits_per_byte(text),
            "xz_bits_per_byte": xz_bits_per_byte(text),
        }
    with console.status("sampling"):
        write_json(run / "samples.json", _samples(LanguageModel(model, data.tokenizer), data))
    summary = summarise(trainer, score) | yardsticks
    with new_folder(run / "model") as aside:
        write_model(
            aside,
            model,
            **data.inputs.special_ids,
            provenance=trainer.provenance() | {"metrics": asdict_score(score)},
        )
        data.tokenizer.save(aside)
    write_json(run / "summary.json", summary)
    write_run_report(run)
    return summary


def asdict_score(score: Score) -> dict[str, float]:
    """A score as it is kept with a model."""
    return {"val_loss": score.loss, "val_bits_per_byte": score.bits_per_byte}


def summarise(trainer: Trainer, score: Score) -> dict[str, Any]:
    """What summary.json says of a finished run; units are in the names."""
    recipe, seconds = trainer.recipe, trainer.progress.seconds
    tokens = recipe.train.steps * recipe.tokens_per_step
    records = [
        record
        for record in read_metrics(trainer.run / "metrics.jsonl")
        if record["kind"] == "train"
    ]
    return {
        "parameters": count_parameters(recipe.model).total,
        "tokens": tokens,
        "train_seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "mfu": round(float(np.median([record["mfu"] for record in records])), 4),
        "matmul_peak_gflops": round(trainer.peak / 1e9, 1),
        **asdict_score(score),
        "val_perplexity": score.perplexity,
        "val_bytes": score.bytes,
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
    }


def _samples(language_model: LanguageModel, data: RunData) -> list[dict[str, str]]:
    """Continuations of the openings of some held-out documents."""
    samples = []
    documents = data.validation[0].documents()
    for seed, ids in zip(range(SAMPLE_PROMPTS), documents, strict=False):
        opening = ids[:PROMPT_TOKENS].tolist()
        pieces = language_model.stream(
            opening, max_tokens=120, temperature=0.7, top_p=0.9, seed=seed
        )
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
