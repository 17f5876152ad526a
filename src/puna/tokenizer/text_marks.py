"""Marks in what people wrote, by which a rendered chat tells it from the template's own words.

A rendered chat is one string, in which a message that spells a special token looks like the
template's own token. So it is rendered a second time from marked values: a character that occurs
nowhere else stands before and behind each text, and behind each character that may begin a special
token. Then no special token that holds a character of a message stands there, be it spelled whole
or together with the template's words. Roles are not marked: they are of a closed set.

Not covered: a template that composes a token of single characters of a message, or that compares
marked and unmarked texts and writes tokens by what it found.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

_PRIVATE_USE = range(0xE000, 0xF900)
"""Code points of Unicode's private use area: no white space, no letters, the same in any case."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]+")

_TOOL_WORDS = frozenset(
    [
        *("type", "function", "name", "description", "parameters", "arguments", "strict"),
        *("properties", "required", "items", "enum", "title", "default", "format", "const"),
        *("anyOf", "oneOf", "allOf", "additionalProperties", "minimum", "maximum", "return"),
    ]
)
"""Keys of a tool's description that a template may ask for."""


class TextMarks:
    """Marks against these special tokens, in texts of which none holds the mark."""

    def __init__(self, special_tokens: Collection[str], known: str) -> None:
        """known: all texts and the template, as JSON or as they are."""
        self._names = tuple(special_tokens)
        folded = known.lower()
        self._mark = next(
            chr(code)
            for code in _PRIVATE_USE
            if chr(code) not in known and f"\\u{code:04x}" not in folded
        )
        first = {re.escape(name[0]) for name in self._names if name}
        self._openings = re.compile("|".join(sorted(first)) or "(?!)")

    def text(self, text: str) -> str:
        """The text with its marks, inside the white space around it, which templates strip."""
        words = text.strip()
        if not words:
            return text
        begin = text.index(words)
        inside = self._openings.sub(lambda found: found[0] + self._mark, words)
        return f"{text[:begin]}{self._mark}{inside}{self._mark}{text[begin + len(words) :]}"

    def identifier(self, text: str) -> str:
        """An id with its marks; one of letters and digits alone needs none, and may have a length
        that the template asks for.
        """
        return text if _PLAIN_ID.fullmatch(text) else self.text(text)

    def value(self, value: Any) -> Any:
        """A JSON value with marks in its texts, and in keys that could be part of a token."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._key(key): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value

    def remove(self, text: str) -> str:
        """The text without marks, escaped ones of JSON too."""
        return text.replace(self._mark, "").replace(json.dumps(self._mark)[1:-1], "")

    def _key(self, key: str) -> str:
        harmless = key in _TOOL_WORDS or (
            key.isidentifier() and not any(key in name for name in self._names)
        )
        return key if harmless else self.text(key)
