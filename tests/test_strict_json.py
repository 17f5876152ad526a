"""JSON from outside: what Python's own reader lets pass is an error here."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.strict_json import LoneSurrogateError, parse

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(value=values, ascii_only=st.booleans())
def test_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii_only)
        text.encode()
    except UnicodeEncodeError:
        return
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
        ('{"a": {"c": 1, "d": 2, "c": 1}}', "the key 'c' stands twice in an object"),
        ("[NaN]", "NaN is no number in JSON"),
        ("-Infinity", "-Infinity is no number in JSON"),
        ("[1e999]", "1e999 is more than a double holds"),
        ("1" * 5000, "integer string conversion"),
    ],
)
def test_text_that_python_would_accept_or_cut_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDFFF": 1}', '"\ud800"', '["\\ude00\\ud83d"]'])
def test_half_of_a_surrogate_pair_is_an_error(text: str) -> None:
    with pytest.raises(LoneSurrogateError):
        parse(text)


def test_whole_pairs_and_their_spelling_are_text() -> None:
    assert parse('["\\ud83d\\ude00", "\\\\ud800"]') == ["\U0001f600", "\\ud800"]


def test_whole_numbers_are_integers_if_asked_for() -> None:
    assert [type(value) for value in parse("[2.0, 2.5, 1e300]")] == [float] * 3
    assert [type(value) for value in parse("[2.0, 2.5, 1e300]", whole_numbers=True)] == [
        int,
        float,
        float,
    ]


def test_objects_have_at_most_so_many_keys() -> None:
    assert parse('{"a": {"b": 1, "c": 2}}', max_keys=2)
    with pytest.raises(ValueError, match="an object has 3 keys, more than 2"):
        parse('[{"a": 1, "b": 2, "c": 3}]', max_keys=2)


def test_what_nests_too_deep_is_a_recursion_error() -> None:
    with pytest.raises(RecursionError):
        parse("[" * 100_000)
