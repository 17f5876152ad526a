"""docs/inference-benchmark.md: a table of measured rows is that of the dated file before it."""

import json
import re
from typing import Any

import pytest
from pages import ROOT

PAGE = (ROOT / "docs" / "inference-benchmark.md").read_text(encoding="utf-8")
_, *NAMES_AND_TEXTS = re.split(r"benchmarks/results/([\d-]+-inference\.json)", PAGE)
TEXTS = dict(zip(NAMES_AND_TEXTS[::2], NAMES_AND_TEXTS[1::2], strict=True))
ROWS = {
    name: json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))["rows"]
    for name in TEXTS
}


def line(row: dict[str, Any]) -> str:
    """A row as the page has it."""
    form = ".2f" if row["unit"] == "s" else ",.0f"
    medians, bar = row["medians"], row["bar"] or {}
    share = "" if row["share"] is None else f"{row['share']:.0%}"
    asked = [f"{bar['ratio']:g}x"] if bar else []
    asked += [f"{bar['share']:.0%}"] if bar.get("share") else []
    asked += [f"{bar['seconds']:g} s"] if bar.get("seconds") else []
    cells = (
        row["row"],
        format(medians["puna"], form),
        f"{format(medians[row['rival']], form)} ({row['rival']})",
        f"{row['ratio']:.2f}x",
        share,
        ", ".join(asked),
        {True: "met", False: "missed", None: ""}[row["met"]],
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(name, row, id=f"{name}, {row['row']}")
        for name, rows in ROWS.items()
        for row in rows
    ],
)
def test_a_row_stands_on_the_page(name: str, row: dict[str, Any]) -> None:
    assert line(row) in TEXTS[name].splitlines()


@pytest.mark.parametrize("name", TEXTS)
def test_the_page_has_no_other_rows(name: str) -> None:
    measured = [text for text in TEXTS[name].splitlines() if re.match(r"\| [\d.]+[MB] ", text)]
    assert len(measured) == len(ROWS[name])
