"""Progress of long work where there is no terminal: plain lines with the time left."""

import io
import re

import pytest
from rich.console import Console

from puna.cli import work_progress
from puna.cli.work_progress import preparation_progress, sample_progress
from puna.data.prepare import PreparationProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its last entry."""
    times = [100.0]
    monkeypatch.setattr(work_progress.time, "monotonic", lambda: times[-1])
    return times


def test_lines_say_the_amount_the_speed_and_the_time_left(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=200)
    with sample_progress(console, 40_000_000) as show:
        show(5_000_000)  # at once: not worth a line
        clock.append(110.0)
        show(10_000_000)
        clock.append(112.0)
        show(11_000_000)
        for number in range(3):  # a stored size is only about that of the text
            clock.append(140.0 + number)
            show(40_000_000 + number)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "reading  25%  10.0 MB, 1.0 MB/s, the merges follow, about 30 s left"
    assert len(lines) == 2
    assert lines[1].startswith("reading 100%  40.0 MB, 1.0 MB/s")


def test_a_preparation_says_its_documents(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=200)
    with preparation_progress(console) as show:
        clock.append(104.0)
        show(PreparationProgress(1.0, 1234, 8_000_000))
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.fullmatch(r"tokenising 100%  8\.0 MB, 2\.0 MB/s, 1,234 documents, .*0 s left", line)
