"""Columns that line up."""

import pytest

from puna.cli.columns import print_columns


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
