"""Progress of one piece of long work: a live bar in a terminal, a plain line every few seconds in a
file, each with the amount done, its speed and the time left.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from puna.corpus.pipeline import CorpusProgress
from puna.data.prepare import PreparationProgress
from puna.number_format import duration

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def preparation_progress(console: Console) -> Iterator[Callable[[PreparationProgress], None]]:
    """The progress of `prepare`."""
    with _progress(console, "tokenising") as show:
        yield lambda now: show(now.fraction, now.bytes, f"{now.documents:,} documents")


@contextmanager
def corpus_progress(console: Console) -> Iterator[Callable[[CorpusProgress], None]]:
    """The progress of `prepare_corpus`: a bar for all of it, of whose three parts the last and the
    first, which read the text, are nine tenths.
    """
    begins = {"filter": (0.0, 0.6), "compare": (0.6, 0.1), "finish": (0.7, 0.3)}
    now = CorpusProgress("filter", 0, 0)

    def amount(done: int, _: float) -> str:
        size = f"{now.total:,} keys" if now.part == "compare" else f"{now.total / 1e6:,.1f} MB"
        return f"{now.part} {done / now.total if now.total else 1.0:.0%} of {size}"

    with _progress(console, "preparing", amount) as show:

        def show_part(progress: CorpusProgress) -> None:
            nonlocal now
            now = progress
            begin, length = begins[now.part]
            fraction = now.done / now.total if now.total else 1.0
            show(
                begin + length * fraction, now.done, f"part {list(begins).index(now.part) + 1} of 3"
            )

        yield show_part


@contextmanager
def sample_progress(console: Console, size: int) -> Iterator[Callable[[int], None]]:
    """The progress of reading a tokenizer's sample of about `size` bytes; the time of the merges,
    which are learned at its end, is not known before.
    """
    with _progress(console, "reading") as show:
        yield lambda read: show(min(1.0, read / max(size, 1)), read, "the merges follow")


@contextmanager
def scoring_progress(console: Console, work: str) -> Iterator[Callable[[int, int], None]]:
    """The progress of asking a model many prompts; takes how many of how many are done."""
    with _progress(console, work, _prompts) as show:
        yield lambda done, total: show(done / max(total, 1), done, f"of {total:,}")


@contextmanager
def layers_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """The progress of work that goes through a model layer by layer; takes how many of how many
    are done.
    """
    with _progress(console, "quantizing", lambda done, _: f"{done} layers") as show:
        yield lambda done, total: show(done / max(total, 1), done, f"of {total}")


@contextmanager
def windows_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """The progress of a distillation; takes how many of how many windows of text are done."""
    with _progress(console, "distilling", lambda done, _: f"{done} windows") as show:
        yield lambda done, total: show(done / max(total, 1), done, f"of {total}")


@contextmanager
def _progress(
    console: Console, work: str, amount: Callable[[int, float], str] | None = None
) -> Iterator[Callable[[float, int, str], None]]:
    """Takes the fraction that is done, its bytes, or what else `amount` words, and more words."""
    started, amount = time.monotonic(), amount or _bytes
    if not console.is_terminal:
        yield _plain_lines(console, work, started, amount)
        return
    with Progress(
        TextColumn(work),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("", total=1.0, amount="")

        def show(fraction: float, size: int, words: str) -> None:
            seconds = time.monotonic() - started
            bar.update(task, completed=fraction, amount=f"{amount(size, seconds)}, {words}")

        yield show


def _plain_lines(
    console: Console, work: str, started: float, amount: Callable[[int, float], str]
) -> Callable[[float, int, str], None]:
    printed, complete = started, False

    def show(fraction: float, size: int, words: str) -> None:
        nonlocal printed, complete
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES or (fraction == 1.0 and not complete):
            printed, complete = now, fraction == 1.0
            left = (now - started) * (1 - fraction) / max(fraction, 1e-6)
            console.print(
                f"{work} {fraction:4.0%}  {amount(size, now - started)}, {words}, about"
                f" {duration(left)} left",
                highlight=False,
                soft_wrap=True,
            )

    return show


def _bytes(size: int, seconds: float) -> str:
    megabytes = size / 1e6
    return f"{megabytes:,.1f} MB, {megabytes / max(seconds, 1e-3):,.1f} MB/s"


def _prompts(done: int, seconds: float) -> str:
    return f"{done:,} prompts, {done / max(seconds, 1e-3):,.1f} a second"
