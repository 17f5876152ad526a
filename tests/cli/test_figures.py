"""Figures of the plans: amounts with a unit, and columns that line up."""

import pytest

from puna.cli.figures import amount, gigabytes, print_columns


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
