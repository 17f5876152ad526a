"""The text of a row: a column, a path into nested ones, several joined."""

from typing import Any

import pytest
from said import said

from puna.data.text_field import FieldError, row_text, top_columns

ROW: dict[str, Any] = {
    "text": "plain",
    "a.b": "dotted",
    "a,b": "listed",
    "a": {"b": "nested", "c": {"d": "deep"}},
    "messages": [{"content": "one", "role": "user"}, {"content": "two"}, {"role": "system"}],
    "paragraphs": ["p", "q"],
    "raw": "für".encode(),
    "none": None,
    "number": 7,
    "latin": b"\xfc",
    "half": "\ud800",
}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("text", "plain"),
        ("a.b", "dotted"),
        ("a,b", "listed"),
        ("a.c.d", "deep"),
        ("messages.content", "one\n\ntwo"),
        ("paragraphs", "p\n\nq"),
        ("text, raw", "plain\n\nfür"),
        ("text,missing", "plain"),
        ("none,text", "plain"),
        ("none", ""),
    ],
)
def test_fields(field: str, text: str) -> None:
    assert row_text(ROW, field) == text


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("body", "no field 'body' ... text ... --text-field"),
        ("a.x", "no field 'a.x'"),
        ("text.x", "no field 'text.x'"),
        ("number", "type int in 'number' ... --text-field"),
        ("a", "type dict in 'a'"),
    ],
)
def test_a_row_without_text_says_so(field: str, message: str) -> None:
    with pytest.raises(FieldError, match=said(message)):
        row_text(ROW, field)


@pytest.mark.parametrize("field", ["latin", "half"])
def test_what_utf8_cannot_hold_is_no_text(field: str) -> None:
    with pytest.raises(UnicodeError):
        row_text(ROW, field)


def test_only_the_columns_of_the_text_are_read() -> None:
    names = ["id", "title", "a", "a.b"]
    assert top_columns(names, "title,a.c,title") == ["title", "a"]
    assert top_columns(names, "a.b") == ["a.b"]
    with pytest.raises(FieldError, match=said("'text' ... 'title'")):
        top_columns(names, "text")
