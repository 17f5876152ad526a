"""Options of reading: the endings of names, and what is rejected."""

import pytest
from said import said

from puna.data.reading import Reading, checked_reading
from puna.errors import DataError


@pytest.mark.parametrize("ending", ["md", ".md", "*.md", ".MD"])
def test_an_ending_may_be_written_in_several_ways(ending: str) -> None:
    reading = Reading(include=(ending,))
    assert [reading.takes(name) for name in ("a.md", "A.MD", "a.md.gz", "a.txt", "amd")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_exclude_wins_over_include() -> None:
    reading = Reading(include=(".gz", ".txt"), exclude=("log.gz",))
    assert [reading.takes(name) for name in ("a.csv.gz", "a.txt", "a.log.gz", "a.log")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_field": ""}, "text_field = ''"),
        ({"separator": ""}, "separator = ''"),
        ({"normalize": "nfc"}, "normalize = 'nfc' ... lf"),
        ({"piece_characters": 0}, "piece_characters = 0"),
    ],
)
def test_bad_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=said(message)):
        checked_reading(**options)
