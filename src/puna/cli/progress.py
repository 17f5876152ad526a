"""How long work looks in a terminal, and in a file: a live bar here, plain lines there."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from puna.data.prepare import Progress as Preparation
from puna.train.recipe import Recipe

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def preparation_progress(console: Console) -> Iterator[Callable[[Preparation], None]]:
    """A bar with amount, speed and time left on a terminal; elsewhere a plain line every few
    seconds.
    """
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    started = time.monotonic()
    with Progress(
        TextColumn("tokenising"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("", total=1.0, amount="")

        def show(progress: Preparation) -> None:
            bar.update(
                task,
                completed=progress.fraction,
                amount=_amount(progress, time.monotonic() - started),
            )

        yield show


def _plain_lines(console: Console) -> Callable[[Preparation], None]:
    started = time.monotonic()
    printed = started

    def show(progress: Preparation) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES or progress.fraction == 1.0:
            printed = now
            console.print(
                f"{progress.fraction:4.0%}  {_amount(progress, now - started)}", highlight=False
            )

    return show


def _amount(progress: Preparation, seconds: float) -> str:
    megabytes = progress.bytes / 1e6
    return (
        f"{megabytes:,.1f} MB, {megabytes / max(seconds, 1e-3):,.1f} MB/s, {progress.documents:,}"
        " documents"
    )


class RunProgress:
    """A training run as it goes: an `Observer` that shows loss, bits per byte, tokens/s, MFU and
    the time left.
    """

    def __init__(self, console: Console, recipe: Recipe, run: Path) -> None:
        self._console, self._steps, self._run = console, recipe.train.steps, run
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=self._steps, numbers="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def logged(self, record: dict[str, Any]) -> None:
        """Show one record of the log."""
        step = record["step"]
        if record["kind"] == "validation":
            text = (
                f"loss {record['loss']:.3f}, {record['bits_per_byte']:.3f} bits per byte on"
                " held-out text"
            )
            self._console.print(f"step {step:,}: {text}", highlight=False)
            return
        if not record["applied"]:
            self._console.print(
                f"step {step:,}: the gradient was not finite, so nothing was changed",
                style="yellow",
                highlight=False,
            )
        numbers = (
            f"loss {record['loss']:.3f}  {record['bits_per_byte']:.3f} bits/byte  "
            f"{record['tokens_per_second']:,.0f} tokens/s  MFU {record['mfu']:.0%}"
        )
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, numbers=numbers)
        else:
            left = (self._steps - step) * record["seconds"] / step
            self._console.print(
                f"step {step:,}/{self._steps:,}  {numbers}  {left:,.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def saved(self, path: Path) -> None:
        """Checkpoints are quiet."""
