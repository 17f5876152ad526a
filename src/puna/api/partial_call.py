"""The text of a call of a tool while it arrives: a JSON object, read character by character.

An automaton: its work on a character depends neither on the text before it nor on how the text is
cut into pieces. Not here: where calls may stand in an answer, and the values of a whole one
(tool_calls.py).

Source of the grammar: RFC 8259.
"""

import json
import re
from collections.abc import Collection

KEYS = frozenset({"type", "name", "parameters", "arguments"})
"""Those that a call may have."""

_MOST_DEPTH = 100
_BLANK = " \t\r\n"
_WORD_CHARACTERS = frozenset("+-.0123456789eEtruefalsn")
_WORDS = ("true", "false", "null")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BEGUN_NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_BEGUN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")


class PartialCall:
    """A call so far. names: of the tools.

    whole: its last brace was read. broken: no text behind it makes it a call: it is no JSON, has a
    key that calls have not, names no tool, or its parameters are no object. Both are set by the
    first character that decides, after which no more may be read.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.whole = self.broken = False
        self._names = names
        self._open: list[str] = []  # the closing marks of the containers, outermost first
        # value: one must come; element: one, or the array's end; member: a key, or the object's
        # end; key; colon; after: a comma or an end; string; word: also a number
        self._state = "value"
        self._word = self._escape = ""
        self._is_key = False  # of the string that is read
        self._key = self._string = ""  # the outermost ones alone

    def read(self, character: str) -> None:
        """Go on by one character."""
        if self._state == "string":
            self._read_in_string(character)
            return
        if self._state == "word":
            if character in _WORD_CHARACTERS:
                self._read_in_word(character)
                return
            self.broken = self._word not in _WORDS and _NUMBER.fullmatch(self._word) is None
            self._state = "after"
        if character not in _BLANK and not self.broken:
            self._read_mark(character)

    def _read_mark(self, mark: str) -> None:
        """Take a bracket, a quotation mark, a comma, a colon, or the first character of a word."""
        state = self._state
        if state in ("value", "element") and self._may_begin_value(mark):
            self._begin_value(mark)
        elif mark == '"' and state in ("member", "key"):
            self._state, self._is_key, self._string = "string", True, ""
        elif mark == ":" and state == "colon":
            self._state = "value"
        elif mark == "," and state == "after":
            self._state = "key" if self._open[-1] == "}" else "value"
        elif state in ("after", "member", "element") and mark == self._open[-1]:
            self._open.pop()
            self._state, self.whole = "after", not self._open
        else:
            self.broken = True

    def _may_begin_value(self, mark: str) -> bool:
        match len(self._open):
            case 0:
                return mark == "{"
            case 1:
                return mark == ('"' if self._key in ("name", "type") else "{")
            case _:
                return mark in '"{[' or mark in _WORD_CHARACTERS

    def _begin_value(self, mark: str) -> None:
        if mark == '"':
            self._state, self._is_key, self._string = "string", False, ""
        elif mark in "{[":
            self._open.append("}" if mark == "{" else "]")
            self._state = "member" if mark == "{" else "element"
            self.broken = len(self._open) > _MOST_DEPTH
        else:
            self._state, self._word = "word", ""
            self._read_in_word(mark)

    def _read_in_word(self, character: str) -> None:
        # of the digits of a number two tell all; so it stays short
        if not (character.isdigit() and self._word[-2:].isdigit() and len(self._word) > 1):
            self._word += character
        is_word = any(word.startswith(self._word) for word in _WORDS)
        self.broken = not is_word and _BEGUN_NUMBER.fullmatch(self._word) is None

    def _read_in_string(self, character: str) -> None:
        if self._escape:
            self._escape += character
            if _ESCAPE.fullmatch(self._escape):
                self._add(json.loads(f'"{self._escape}"'))
                self._escape = ""
            else:
                self.broken = _BEGUN_ESCAPE.fullmatch(self._escape) is None
        elif character == "\\":
            self._escape = character
        elif character == '"':
            self._end_string()
        elif character < " ":
            self.broken = True
        else:
            self._add(character)

    def _add(self, character: str) -> None:
        """Add to the string where it is outermost, and so must be one of a few."""
        if len(self._open) == 1:
            self._string += character
            self.broken = not any(text.startswith(self._string) for text in self._choices())

    def _end_string(self) -> None:
        self._state = "colon" if self._is_key else "after"
        if len(self._open) == 1:
            self.broken = self._string not in self._choices()
            self._key = self._string if self._is_key else self._key

    def _choices(self) -> Collection[str]:
        """The texts that the outermost string may be."""
        if self._is_key:
            return KEYS
        return self._names if self._key == "name" else ("function",)
