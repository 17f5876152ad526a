"""Numbers as text, against published spellings and by hand."""

import pytest

from puna.number_format import (
    amount,
    duration,
    gigabytes,
    moment,
    part_in_megabytes,
    quantity,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00025, "0.00025"),
        (2e-5, "2e-5"),
        (0.7312, "0.731"),
        (99.96, "100"),
        (5100.2, "5,100"),
        (9999.4, "9,999"),
        (9999.6, "10k"),
        (999_950, "1M"),
        (33_702_400, "33.7M"),
        (1.1e9, "1.1B"),
        (15e12, "15T"),
        (-33_702_400, "-33.7M"),
        (2e15, "2e+15"),
    ],
)
def test_quantities(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (9.99, "9.99 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (4320, "1 h 12 min"),
        (86_399, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2025-11-21T01:11:59+01:00", "2025-11-21 00:11 UTC"),
        ("2025-11-21T00:11:00Z", "2025-11-21 00:11 UTC"),
        ("2025-11-21 00:11:00", "2025-11-21 00:11"),
        ("2025-11-21", "2025-11-21"),
        ("last Friday", "last Friday"),
        ("", ""),
    ],
)
def test_moments(text, shown):
    assert moment(text) == shown


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


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (11_665_401, 11_665_401, "all 11.7 MB"),
        (12e6, 905_432_100, "12 of 905 MB"),
        (9_999_500, 3.2e13, "10 of 32,000,000 MB"),
        (1_034, 1_034, "all 0.00103 MB"),
        (5, 4, "all 5e-6 MB"),
    ],
)
def test_parts_in_megabytes(part: float, whole: float, text: str) -> None:
    assert part_in_megabytes(part, whole) == text


def test_gigabytes_are_decimal() -> None:
    assert gigabytes(26_953_662_464) == "26.954 GB"
    assert gigabytes(1e12) == "1,000.000 GB"
