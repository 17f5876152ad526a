"""Columns that line up."""

import pytest
from rich.cells import cell_len

from puna.cli.columns import padding, print_columns


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
