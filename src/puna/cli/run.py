"""A training run from the command line: progress in the terminal, Ctrl-C that saves, and the page
of the finished run. `puna train` and `puna quickstart` are thin over this.
"""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.text import Text

from puna.cli.progress import RunProgress
from puna.device import keep_freed_memory
from puna.number_format import part_in_megabytes
from puna.training.distributed import ALONE, Ranks
from puna.training.recipe import Recipe
from puna.workflow.observer import RunObserver
from puna.workflow.training_run import train

if TYPE_CHECKING:
    from puna.training.trainer import Trainer


class StopSignals(RunObserver):
    """SIGINT and SIGTERM while a model trains: the step at hand ends, and calling this object says
    True. A second signal interrupts at once, and `lost` is then what that costs; outside of
    training they act as ever.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.lost = ""
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return bool(self.received)

    def training(self, trainer: "Trainer") -> None:
        """Begin to listen."""
        self._trainer = trainer
        self._before = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def trained(self, _finished: bool) -> None:
        """Give the signals back."""
        self._restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            self.lost = _lost(self._trainer)
            raise KeyboardInterrupt
        self.received.append(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _lost(trainer: "Trainer") -> str:
    """The steps that a run loses which ends at once, in words."""
    from puna.training.checkpoint import checkpoints

    saved, step = max(checkpoints(trainer.run), default=0), trainer.progress.step
    if saved == step:
        return f"stopped at once: step {step} is saved, and only a step at hand is lost"
    return f"stopped at once, unsaved: steps {saved + 1} to {step} are lost"


class ResumeNotice(RunObserver):
    """A line on where a resumed run goes on, and with what changed."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def training(self, trainer: "Trainer") -> None:
        """Say it before the first step."""
        step = trainer.progress.step
        lines = [f"goes on after step {step}, from its checkpoint"]
        if step == 0:
            lines = [f"{trainer.run} has no checkpoint after a step yet: it begins at step 0"]
        lines += [
            f"  {key}: {old} before, {new} now" for key, (old, new) in trainer.changes.items()
        ]
        self._console.print("\n".join(lines), highlight=False, soft_wrap=True)


def run_recipe(
    recipe: Recipe,
    progress: RunProgress,
    *,
    resume: bool,
    tensorboard: bool = False,
    again: str = "with --resume",
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train a recipe to its end, measure it, write its page, and give its summary, empty on all
    ranks but the first. A signal to one of them saves,
    says how to go on and exits with 128 + its number; a second one saves nothing, and says what is
    lost.

    again: how the same command is to be given to go on.
    """
    keep_freed_memory()
    signals = StopSignals()
    observers: list[RunObserver] = [progress, signals]
    if tensorboard and ranks.is_first:
        from puna.cli.tensorboard import TensorBoard

        observers.append(TensorBoard(Path(recipe.run or "") / "tensorboard"))
    if resume and ranks.is_first:
        observers.append(ResumeNotice(progress.console))
    try:
        with progress, signals:
            run = train(recipe, resume=resume, stop=signals, observers=observers, ranks=ranks)
    except KeyboardInterrupt:
        if not signals.lost:
            raise
        progress.console.print(f"{signals.lost}; the same command {again} goes on from there")
        raise SystemExit(128 + signals.received[0]) from None
    if not run.finished:
        progress.console.print(
            f"stopped and saved at step {run.step}; the same command {again} goes on"
        )
        # another rank's signal may be all that there was
        raise SystemExit(128 + (signals.received or [signal.SIGTERM])[0])
    if not ranks.is_first:
        return {}
    # matplotlib takes a second, which a run need not wait for at its start
    from puna.report.run_report import write_run_report

    write_run_report(run.folder)
    return dict(run.summary)


def print_result(summary: dict[str, Any], run: Path, console: Console) -> None:
    """The end of a run in a few lines."""
    # summaries of an earlier release do not say it
    part = (
        f", on {summary['val_targets']:,} of {summary['val_all_targets']:,} tokens"
        if "val_targets" in summary
        else ""
    )
    budget = (
        f"{summary['steps']:,} of at most {summary['most_steps']:,} steps in a budget of"
        f" {summary['budget_seconds']:,.0f} s\n"
        if "budget_seconds" in summary
        else ""
    )
    lines = Text("validation text: ")
    lines.append(f"{summary['val_bits_per_byte']:.3f}", style="bold")
    lines.append(
        f" bits per byte (gzip -9"
        f" {summary['gzip_bits_per_byte']:.3f}, xz -9"
        f" {summary['xz_bits_per_byte']:.3f}){part}\n{_primed(summary)}{summary['tokens']:,} tokens"
        f" in {summary['train_seconds']:,.0f} s: {summary['tokens_per_second']:,.0f} tokens/s, MFU"
        f" {summary['mfu']:.0%} of a measured {summary['matmul_peak_gflops']:,.0f} GFLOP/s\n"
        f"{budget}model   {summary['model']}\nreport  {run / 'report.html'}"
    )
    console.print(lines, highlight=False)


def _primed(summary: dict[str, Any]) -> str:
    """A line on the baselines that have read training text; empty of an earlier release's run."""
    if "primed_bits_per_byte" not in summary:
        return ""
    read = part_in_megabytes(summary["primed_read_bytes"], summary["primed_all_bytes"])
    levels = summary["primed_bits_per_byte"].items()
    named = ", ".join(f"{name} {value:.3f}" for name, value in levels)
    return f"having read {read} of the training text first: {named}\n"
