"""docs/native.md: its table of files is whole, tiers and gates are named, its size is right."""

import re

import pytest
from pages import ROOT, codes_in, read_page

from puna.native.kernels import ACTIVATIONS
from puna.native.library import TIERS

PAGE = read_page("docs/native.md")
CORE = ROOT / "native"


SOURCES = (".h", ".cpp", ".py")
FILES = PAGE.rows("file of `native/`", "lines", "holds")


def lines_of(name: str) -> int:
    """Lines of a file, or of all sources in a folder."""
    path = CORE / name
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(
        len(each.read_text(encoding="utf-8").splitlines())
        for each in files
        if each.suffix in SOURCES
    )


def test_each_file_has_a_row() -> None:
    listed = [name for cell, *_ in FILES for name in codes_in(cell)]
    present = {path.name for path in CORE.iterdir() if path.suffix in SOURCES}
    assert sorted(listed) == sorted({*present, "tests/"})


@pytest.mark.parametrize(("cell", "stated"), [row[:2] for row in FILES])
def test_the_lines_of_a_file_are_about_right(cell: str, stated: str) -> None:
    """To 15% or ten lines, so that not every change of a line is one of the page."""
    lines = sum(map(lines_of, codes_in(cell)))
    assert int(stated.replace(",", "")) == pytest.approx(lines, rel=0.15, abs=10)


def test_each_tier_and_gate_is_named() -> None:
    assert set(TIERS) <= set(PAGE.codes)
    (gates,) = [core.lower() for part, core, _ in PAGE.rows("part") if part == "feed-forward"]
    assert all(name in gates for name in ACTIVATIONS)


def test_the_size_is_about_right() -> None:
    (stated,) = re.findall(r"about ([\d,]+) lines", PAGE.text)
    files = [*CORE.glob("*.h"), *CORE.glob("*.cpp")]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert int(stated.replace(",", "")) == pytest.approx(lines, rel=0.15)
