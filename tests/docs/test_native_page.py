"""docs/native.md: its table of files is whole, tiers and gates are named, its size is right."""

import re

import pytest
from pages import ROOT, codes_in, read_page

from puna.native.kernels import ACTIVATIONS
from puna.native.library import TIERS

PAGE = read_page("docs/native.md")
CORE = ROOT / "native"


def test_each_file_has_a_row() -> None:
    rows = PAGE.rows("file of `native/`", "holds")
    listed = {name for cell, _ in rows for name in codes_in(cell)}
    present = {path.name for path in CORE.iterdir() if path.suffix in (".h", ".cpp", ".py")}
    assert listed == {*present, "tests/"}


def test_each_tier_and_gate_is_named() -> None:
    assert set(TIERS) <= set(PAGE.codes)
    (gates,) = [core.lower() for part, core, _ in PAGE.rows("part") if part == "feed-forward"]
    assert all(name in gates for name in ACTIVATIONS)


def test_the_size_is_about_right() -> None:
    (stated,) = re.findall(r"about ([\d,]+) lines", PAGE.text)
    files = [*CORE.glob("*.h"), *CORE.glob("*.cpp")]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert int(stated.replace(",", "")) == pytest.approx(lines, rel=0.15)
