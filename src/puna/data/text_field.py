"""The text of a row: the value of one key or column, of a path into nested ones, or of several
joined.

    text               the column `text`
    message.content    `content` inside the column `message`
    messages.content   the `content` of every element, where `messages` is a list
    title,body         both, with a blank line between them

A column whose own name holds a dot or a comma is meant before a path or a list is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

JOIN = "\n\n"
"""Stands between joined values, and between the elements of a list."""


class FieldError(Exception):
    """A row without the field, or with a value that is not text; the message says which."""


def top_columns(names: list[str], text_field: str) -> list[str]:
    """The columns of a table that the text is in. Raises FieldError where there is none."""
    found = [path[0] for path in _paths(names, text_field) if path[0] in names]
    if not found:
        raise FieldError(_missing(names, text_field))
    return list(dict.fromkeys(found))


def row_text(row: Mapping[str, Any], text_field: str) -> str:
    """The text of a row; a value of null is empty text, bytes are read as UTF-8.

    Raises FieldError for a row without any of the fields and for a number or a structure, and
    UnicodeError for bytes that are not UTF-8 and for half of a surrogate pair, which no UTF-8 can
    hold.
    """
    found = [value for path in _paths(row, text_field) for value in _values(row, path)]
    if not found:
        raise FieldError(_missing(list(row), text_field))
    text = JOIN.join(part for value in found for part in _texts(value, text_field))
    text.encode()
    return text


def _paths(names: Any, text_field: str) -> Iterator[list[str]]:
    for field in [text_field] if text_field in names else text_field.split(","):
        yield [field] if field in names else field.strip().split(".")


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _values(element, path)
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _texts(value: Any, text_field: str) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode("utf-8")
    elif isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _texts(element, text_field)
    elif value is not None:
        raise FieldError(
            f"a value of type {type(value).__name__} in {text_field!r}, but documents are text;"
            " name another field with --text-field"
        )


def _missing(names: list[str], text_field: str) -> str:
    return f"no field {text_field!r}, only {names}; name the field with --text-field"
