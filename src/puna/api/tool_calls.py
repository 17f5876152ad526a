"""Calls of tools in generated text: `{"name": ..., "parameters": {...}}`, as Llama 3.1 writes them,
several behind ";".

A reader takes an answer's text bit by bit and gives its parts: words, and calls with their
arguments. There are three. `WordsReader` for answers without tools. `CallReader` for an answer that
a constraint makes one call: its arguments are given as they come. `PossibleCalls` where the model
may choose: it holds text back only while that may still turn out to be calls, and all but whole
calls of known tools, with an object for their arguments, stays text. Not here: the description of
tools for the model (puna.tokenizer.chat_template), and the constraints (response_format.py).
"""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json

from puna.api.partial_json import PartialObject


@dataclass(frozen=True, slots=True)
class Words:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call; its arguments follow. index: which of the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments, as the text of a JSON value."""

    index: int
    text: str


Part = Words | CallBegun | Arguments


class Reader(Protocol):
    """One answer's text to its parts."""

    called: bool
    """True if there was a call."""
    enough: bool
    """True if nothing that may still come is of interest."""

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        ...

    def end(self) -> list[Part]:
        """The parts that the text's end makes certain."""
        ...


class WordsReader:
    """All text is words."""

    called = enough = False

    def feed(self, text: str) -> list[Part]:
        """The words as they come."""
        return [Words(text)] if text else []

    def end(self) -> list[Part]:
        """Nothing was held back."""
        return []


_BEGINNING = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"parameters"\s*:', re.DOTALL
)


class CallReader:
    """The text is one call, or the beginning of one if it ended early."""

    def __init__(self) -> None:
        self.called = self.enough = False
        self._beginning = ""
        self._depth, self._in_string, self._escaped = 0, False, False

    def feed(self, text: str) -> list[Part]:
        """The call once its name is known, and its arguments as they come."""
        if self.called:
            return self._arguments(text)
        self._beginning += text
        found = _BEGINNING.match(self._beginning)
        if found is None:
            return []
        self.called = True
        return [_begin(0, json.loads(found[1])), *self._arguments(self._beginning[found.end() :])]

    def end(self) -> list[Part]:
        """Nothing was held back."""
        return []

    def _arguments(self, text: str) -> list[Part]:
        """The value of "parameters", up to the brace behind it, without the white space around
        it.
        """
        given = []
        for character in text:
            if self.enough:
                break
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self.enough = self._depth == 0
                self._depth -= 1
            if not self.enough and (self._depth or self._in_string or not character.isspace()):
                given.append(character)
        return [Arguments(0, "".join(given))] if given else []


_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)')
_KEYS = frozenset({"type", "name", "parameters", "arguments"})


class PossibleCalls:
    """The text is words or calls, as the model chose. names: of the tools. single: the answer ends
    with its first call.

    A call is parsed when it is whole; before, each piece is parsed behind the short text of
    `PartialObject`. So the cost grows with the length of the text, not with its square.
    """

    def __init__(self, names: Collection[str], single: bool = False) -> None:
        self.called = self.enough = False
        self._names, self._single = names, single
        self._pieces: list[str] = []
        self._length = self._read = 0  # in characters: all, and up to the last whole call
        self._calls: list[dict[str, Any]] = []
        self._separated = True
        self._begun: PartialObject | None = None  # the call that is not whole yet, and its text
        self._begun_pieces: list[str] = []
        self._is_words = False

    def feed(self, text: str) -> list[Part]:
        """Nothing while the text may be calls; then all of it, and the rest as it comes."""
        if self._is_words:
            return [Words(text)] if text else []
        self._pieces.append(text)
        self._length += len(text)
        if self._may_be_calls(text):
            return self._given_calls() if self.enough else []
        self._is_words = True
        return self._given_words()

    def end(self) -> list[Part]:
        """The calls, or the text if they are not whole."""
        if self._is_words or self.enough:
            return []
        if self._calls and not "".join(self._pieces)[self._read :].strip("; \t\r\n"):
            return self._given_calls()
        return self._given_words()

    def _may_be_calls(self, text: str) -> bool:
        """Read on; False once the text can be neither calls nor the beginning of some."""
        while True:
            if self._begun is None:
                text = text.lstrip()
                if text and not self._separated:
                    if text[0] != ";":
                        return False
                    self._separated, text = True, text[1:].lstrip()
                if not text:
                    return True
                if text[0] != "{":
                    return False
                self._begun, self._begun_pieces = PartialObject(), []
            beginning = self._begun.text + text
            end = self._begun.feed(text)
            self._begun_pieces.append(text[:end])
            if end is None:
                return not self._begun.broken and self._may_become_call(beginning)
            call = self._whole_call("".join(self._begun_pieces))
            if call is None:
                return False
            self._calls.append(call)
            text = text[end:]
            self._begun, self._separated, self._read = None, False, self._length - len(text)
            if self._single:
                self.enough = True
                return True

    def _whole_call(self, text: str) -> dict[str, Any] | None:
        """The call that a text is; None if it is none."""
        try:
            value = json.loads(text)
            # Python takes NaN and half a surrogate pair for JSON
            from_json(text, allow_inf_nan=False)
        except (ValueError, RecursionError):
            return None
        if not _KEYS.issuperset(value) or value.get("type", "function") != "function":
            return None
        arguments = [value[key] for key in ("parameters", "arguments") if key in value]
        name = value.get("name")
        if not isinstance(name, str) or name not in self._names:
            return None
        if len(arguments) != 1 or not isinstance(arguments[0], dict):
            return None
        return {"name": name, "arguments": json.dumps(arguments[0], ensure_ascii=False)}

    def _may_become_call(self, text: str) -> bool:
        first = _FIRST_KEY.match(text)
        if first is not None and not any(key.startswith(first[1]) for key in _KEYS):
            return False
        try:
            value = from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return False
        if not isinstance(value, dict) or not _KEYS.issuperset(value):
            return False
        name, kind = value.get("name", ""), value.get("type", "function")
        fits = isinstance(name, str) and any(known.startswith(name) for known in self._names)
        return (
            fits
            and isinstance(kind, str)
            and "function".startswith(kind)
            and isinstance(value.get("parameters", {}), dict)
        )

    def _given_words(self) -> list[Part]:
        text = "".join(self._pieces)
        return [Words(text)] if text else []

    def _given_calls(self) -> list[Part]:
        self.called = True
        parts: list[Part] = []
        for index, call in enumerate(self._calls):
            parts += [_begin(index, call["name"]), Arguments(index, call["arguments"])]
        return parts


def _begin(index: int, name: str) -> CallBegun:
    return CallBegun(index, f"call_{uuid.uuid4().hex[:24]}", name)
