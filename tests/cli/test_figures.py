"""Figures of the plans: amounts with a unit, and columns that line up."""

import pytest
from rich.cells import cell_len

from puna.cli.figures import amount, gigabytes, padding, print_columns


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.50549, "0.5055"),
        (82_432, "82,432"),
        (999_999.4, "999,999"),
        (999_999.6, "1M"),
        (6_738_415_616, "6.738B"),
        (203_849_000_000, "203.8B"),
        (999_960_000_000, "1T"),
        (2e12, "2T"),
        (5e15, "5e+15"),
    ],
)
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


def test_gigabytes_are_decimal() -> None:
    assert gigabytes(26_953_662_464) == "26.954 GB"
    assert gigabytes(1e12) == "1,000.000 GB"


def test_columns_line_up_and_a_row_of_one_cell_takes_no_width(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_columns(
        [("", "fit"), ("a line longer than any column",), ("alpha", "0.3"), ("E", "1.8194")]
    )
    assert capsys.readouterr().out.splitlines() == [
        "          fit",
        "a line longer than any column",
        "alpha     0.3",
        "E      1.8194",
    ]


NAMES = ["plain", "天地玄黄", "e\u0301te\u0301", "🦙🐪"]


def test_padding_counts_cells() -> None:
    assert [len(padding(name, 10)) for name in NAMES] == [5, 2, 7, 6]
    assert padding("天地玄黄", 3) == ""


def test_columns_end_in_one_cell_whatever_their_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_columns([(name, name, "1") for name in NAMES])
    lines = capsys.readouterr().out.splitlines()
    assert {cell_len(line) for line in lines} == {8 + 2 + 8 + 2 + 1}
