"""A training run from the command line: progress in the terminal, Ctrl-C that saves, and the page
of the finished run. `puna train` and `puna quickstart` are thin over this.
"""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from puna.cli.progress import RunProgress
from puna.training.recipe import Recipe
from puna.workflow.observer import RunObserver
from puna.workflow.training_run import train

if TYPE_CHECKING:
    from puna.training.trainer import Trainer


class StopSignals(RunObserver):
    """SIGINT and SIGTERM while a model trains: the step at hand ends, and calling this object says
    True. A second signal interrupts at once; outside of training they act as ever.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return bool(self.received)

    def training(self, _trainer: "Trainer") -> None:
        """Begin to listen."""
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
            raise KeyboardInterrupt
        self.received.append(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def run_recipe(
    recipe: Recipe,
    progress: RunProgress,
    *,
    resume: bool,
    tensorboard: bool = False,
    again: str = "with --resume",
) -> dict[str, Any]:
    """Train a recipe to its end, measure it, write its page, and give its summary. A signal saves,
    says how to go on and exits with 128 + its number.

    again: how the same command is to be given to go on.
    """
    signals = StopSignals()
    observers: list[RunObserver] = [progress, signals]
    if tensorboard:
        from puna.cli.tensorboard import TensorBoard

        observers.append(TensorBoard(Path(recipe.run or "") / "tensorboard"))
    with progress, signals:
        run = train(recipe, resume=resume, stop=signals, observers=observers)
    if not run.finished:
        progress.console.print(
            f"stopped and saved at step {run.step}; the same command {again} goes on"
        )
        raise SystemExit(128 + signals.received[0])
    # matplotlib takes a second, which a run need not wait for at its start
    from puna.report.run_report import write_run_report

    write_run_report(run.folder)
    return dict(run.summary)


def print_result(summary: dict[str, Any], run: Path, console: Console) -> None:
    """The end of a run in a few lines."""
    console.print(
        f"validation text: [bold]{summary['val_bits_per_byte']:.3f}[/bold] bits per byte (gzip -9"
        f" {summary['gzip_bits_per_byte']:.3f}, xz -9"
        f" {summary['xz_bits_per_byte']:.3f}), on {summary['val_targets']:,} of"
        f" {summary['val_all_targets']:,} tokens\n{summary['tokens']:,} tokens in"
        f" {summary['train_seconds']:,.0f} s: {summary['tokens_per_second']:,.0f} tokens/s, MFU"
        f" {summary['mfu']:.0%} of a measured {summary['matmul_peak_gflops']:,.0f} GFLOP/s\nmodel  "
        f" {summary['model']}\nreport  {run / 'report.html'}",
        highlight=False,
    )
