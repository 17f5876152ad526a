"""Progress of a run in a terminal or a file: what is made, what is reused, and the training."""

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from puna.cli.work_progress import preparation_progress, sample_progress
from puna.data.prepare import PreparationProgress
from puna.workflow.observer import RunObserver

if TYPE_CHECKING:
    from puna.data.manifest import Manifest
    from puna.tokenizer.tokenizer import Tokenizer
    from puna.training.recipe import TokenizerRecipe
    from puna.training.trainer import Trainer


def file_date(path: Path) -> str:
    """The day on which a file was written, local time."""
    return datetime.date.fromtimestamp(path.stat().st_mtime).isoformat()


EMULATED = (
    "bfloat16 is emulated here, for lack of hardware that multiplies it: expect steps several times"
    " slower than with train.precision=float32, whose matmul peak is the one above"
)


def matmul_peak_words(peak: float, others: float | None) -> str:
    """The measured peak, FLOP/s, and the cores that other programs took meanwhile, which make it
    too low.
    """
    load = "" if others is None else f" while other programs took {max(0.0, others):.1f} cores"
    return f"matmul peak {peak / 1e9:,.0f} GFLOP/s (measured{load})"


class RunProgress(RunObserver):
    """A training run as it goes: what is being made, then loss, bits per byte, tokens/s, MFU and
    the time left. A context manager, so that an error finds the terminal as it was. A tokenizer
    or corpus is spoken of once, however many runs use it.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = ExitStack()  # the bar or spinner that is on the screen
        self._read: Callable[[int], None] | None = None
        self._prepare: Callable[[PreparationProgress], None] = lambda _: None
        self._steps = self._said_steps = 0
        self._known: set[Path] = set()  # tokenizers and corpora that were made or spoken of

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()

    def tokenizer_training(self, vocab_size: int) -> None:
        self._spin(f"training a tokenizer of {vocab_size:,} entries")

    def tokenizer_progress(self, read: int, size: int) -> None:
        if self._read is None:
            self._live.close()
            self._read = self._live.enter_context(sample_progress(self.console, size))
        self._read(read)

    def tokenizer_trained(self, folder: Path, tokenizer: "Tokenizer") -> None:
        self._live.close()
        self._read = None
        self._known.add(folder)
        self._say(f"tokenizer: {tokenizer.vocab_size:,} entries in {folder}")

    def tokenizer_reused(
        self, folder: Path, tokenizer: "Tokenizer", recipe: "TokenizerRecipe"
    ) -> None:
        if folder in self._known:
            return
        self._known.add(folder)
        date = file_date(folder / "tokenizer.json")
        self._say(
            f"tokenizer: {tokenizer.vocab_size:,} entries, reused from {folder}, of {date}, hash"
            f" {tokenizer.hash[:12]}"
        )
        if tokenizer.vocab_size > recipe.vocab_size or (
            tokenizer.digits not in (None, recipe.digits)
        ):
            self._say(
                f"  it was not trained as the recipe asks (tokenizer.vocab_size"
                f" {recipe.vocab_size:,}, digits {recipe.digits}); another tokenizer.path trains"
                " one",
                style="yellow",
            )

    def vocabulary_unused(self, entries: int, model_entries: int) -> None:
        self._say(
            f"  the model's vocabulary has {model_entries:,} entries, {model_entries - entries:,}"
            f" more than the tokenizer, which are never used; model.vocab_size={entries} leaves"
            " them out",
            style="yellow",
        )

    def corpus_reused(self, folder: Path, manifest: "Manifest", changed: bool) -> None:
        if folder in self._known:
            return
        self._known.add(folder)
        names = ", ".join(source.name for source in manifest.inputs.sources)
        date = file_date(folder / "manifest.json")
        self._say(f"data: {folder} reused, prepared from {names} on {date}")
        if changed:
            self._say(
                f"  files of {names} have changed since, which a run on {folder} does not see;"
                " delete the folder to prepare it again",
                style="yellow",
            )
        self._held_out(manifest)

    def corpus_outdated(self, folder: Path, reasons: list[str]) -> None:
        self._say(f"data: {folder} is prepared again: {'; '.join(reasons)}", style="yellow")

    def corpus_preparing(self, _folder: Path) -> None:
        self._prepare = self._live.enter_context(preparation_progress(self.console))

    def corpus_progress(self, progress: PreparationProgress) -> None:
        self._prepare(progress)

    def corpus_prepared(self, folder: Path, manifest: "Manifest") -> None:
        self._live.close()
        self._known.add(folder)
        parts = ", ".join(
            f"{split.tokens:,} {name} tokens" for name, split in manifest.splits.items()
        )
        self._say(f"data: {parts} in {folder}")
        self._held_out(manifest)
        for line in manifest.left_out_lines():
            self.console.print(line, highlight=False, soft_wrap=True)

    def _held_out(self, manifest: "Manifest") -> None:
        train, validation = (manifest.splits[name] for name in ("train", "validation"))
        total = train.bytes + validation.bytes
        alone = validation.documents == 1
        cut = f",{'' if alone else ' one'} cut off the end of another" if manifest.cut else ""
        self._say(
            f"  held out for validation: {validation.bytes:,} of {total:,} bytes"
            f" ({validation.bytes / total:.1%}), {validation.documents:,}"
            f" {'document' if alone else 'documents'}{cut}"
        )

    def measuring_baselines(self) -> None:
        self._spin("compressors and an n-gram model read the training text")

    def training(self, trainer: "Trainer") -> None:
        self._live.close()
        from puna.device import is_emulated
        from puna.model.accounting import count_parameters
        from puna.native.library import passed_over, problem

        self._steps = self._said_steps = trainer.planned_steps
        peak = matmul_peak_words(trainer.peak, trainer.others_while_measured)
        self._say(
            f"{count_parameters(trainer.recipe.model).total:,} parameters on {trainer.device},"
            f" {trainer.precision}, {peak}"
        )
        self._say(f"computed by {trainer.loss.backend.words}")
        if trainer.device.type == "cpu":
            # without a tier left its reason is the problem, said once
            missing = problem()
            for sentence in (missing,) if missing else passed_over():
                self._say(sentence, style="yellow")
        if is_emulated(trainer.device, trainer.precision):
            self._say(EMULATED, style="yellow")
        self._bar = self._live.enter_context(
            Progress(
                SpinnerColumn(),
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self.console,
                disable=not self.console.is_terminal,
            )
        )
        self._task = self._bar.add_task("training", total=self._steps, numbers="")

    def logged(self, record: dict[str, Any]) -> None:
        step = record["step"]
        if record["kind"] == "validation":
            self._say(
                f"step {step:,}: loss {record['loss']:.3f}, {record['bits_per_byte']:.3f} bits per"
                f" byte on {record['targets']:,} of {record['all_targets']:,} validation tokens"
            )
            return
        self._plan(record)
        if not record["applied"]:
            self._say(
                f"step {step:,}: the gradient was not finite, so nothing was changed",
                style="yellow",
            )
        numbers = (
            f"loss {record['loss']:.3f}  {record['bits_per_byte']:.3f} bits/byte  "
            f"{record['tokens_per_second']:,.0f} tokens/s  MFU {record['mfu']:.0%}"
        )
        if self.console.is_terminal:
            self._bar.update(self._task, completed=step, total=self._steps, numbers=numbers)
        else:
            left = (self._steps - step) * record["seconds"] / step
            self.console.print(
                f"step {step:,}/{self._steps:,}  {numbers}  {left:,.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def _plan(self, record: dict[str, Any]) -> None:
        """Take over the number of steps that a time budget lets expect; say it where it differs by
        more than a third from what was said last.
        """
        self._steps = record.get("planned_steps", self._steps)
        if abs(self._steps - self._said_steps) > self._said_steps / 3:
            self._said_steps = self._steps
            self._say(
                f"step {record['step']:,}: {self._steps:,} steps in all fit in the time budget, at"
                " the pace of the latest ones"
            )

    def trained(self, _finished: bool) -> None:
        self._live.close()

    def measuring(self) -> None:
        self._spin("measuring on validation text")

    def sampling(self) -> None:
        self._live.close()
        self._spin("sampling")

    def _spin(self, text: str) -> None:
        self._live.enter_context(self.console.status(text))

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False)
