"""docs/plan.md: each command that is followed by an output prints that output."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import read_page

PAGE = read_page("docs/plan.md")
SHOWN = [(command.strip(), output) for command, output in PAGE.shown_with_output("sh", "text")]
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


def test_the_page_shows_every_command_but_tree() -> None:
    shown = {shlex.split(command)[2] for command, _ in SHOWN}
    assert shown == {"size", "memory", "data", "fit"}


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_a_command_prints_what_the_page_shows(
    command: str,
    output: str,
    puna: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Word for word; numbers of a fit to a thousandth, since its last digits are the machine's."""
    monkeypatch.chdir(tmp_path)
    Path("results.jsonl").write_text(PAGE.block("json"), encoding="utf-8")
    program, *arguments = shlex.split(command)
    result = puna(*arguments)
    assert (program, result.code, result.err) == ("puna", 0, "")
    if arguments[1] != "fit":
        assert result.out == output
        return
    printed, shown = (
        [float(number.replace(",", "")) for number in NUMBER.findall(text)]
        for text in (result.out, output)
    )
    assert NUMBER.sub("#", result.out) == NUMBER.sub("#", output)
    assert printed == pytest.approx(shown, rel=1e-3, abs=1e-4)
