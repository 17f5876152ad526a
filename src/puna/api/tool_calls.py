"""Calls of tools in generated text: `{"name": ..., "parameters": {...}}`, as Llama 3.1 writes them,
several behind ";", or each between <tool_call> and </tool_call>, as models of ChatML do.

A reader takes an answer's text bit by bit and gives its parts: words, and calls with their
arguments. There are three. `WordsReader` for answers without tools. `CallReader` for an answer that
a constraint makes one call: its arguments are given as they come. `PossibleCalls` where the model
may choose: it holds text back only while that may still turn out to be calls, and all but whole
calls of known tools, with an object for their arguments, stays text. Not here: the text of a call
while it arrives (partial_call.py), the description of tools for the model
(puna.tokenizer.chat_template), and the constraints (response_format.py).
"""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json

from puna.api.partial_call import PartialCall


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


_BLANK = " \t\r\n"
_TAG, _END_TAG = "<tool_call>", "</tool_call>"
_BEGUN_FENCE = re.compile(r"`{1,2}|```[\w+-]{0,20}[ \t\r]{0,20}\n?")


class PossibleCalls:
    """The text is words, calls, or words and then calls, as the model chose. names: of the tools.
    single: the answer ends with its first call. alone: nothing but calls counts as calls, neither
    behind words nor in a fence.

    Calls stand apart by white space or ";", bare, in code fences or in <tool_call> tags, and
    nothing but white space stands behind the last. They begin where the text does or behind white
    space. Text is held back while it may become calls; when it cannot, reading goes on behind it.
    So each character is read once or twice, however the text is cut, and the text of a whole call
    once more.
    """

    def __init__(self, names: Collection[str], single: bool = False, alone: bool = False) -> None:
        self.called = self.enough = False
        self._names, self._single, self._alone = names, single, alone
        self._is_words = False  # all that comes, for good
        self._at_start = True  # nothing but white space was read
        # Held back: white space, and what may be a block of calls behind it
        self._held: list[str] = []
        # words: no block has begun; opening, closing, leaving: in the marks of a fence or in a tag,
        # the last of code that is no call; call; between
        self._state = "words"
        self._fence, self._in_code = "", False
        self._fenced = ""  # the first character of the marks or the tag around what is read
        self._separated = self._semicolon = False  # a call may follow; a ";" was read
        self._call: PartialCall | None = None
        self._begin = 0  # of that call in what is held
        self._calls: list[dict[str, Any]] = []

    def feed(self, text: str) -> list[Part]:
        """The words that can be no calls; calls only where they are enough."""
        words: list[str] = []
        for index, character in enumerate(text):
            if self._is_words:
                words.append(text[index:])
                break
            self._read(character, words)
            if self.enough:
                break
        given: list[Part] = [Words("".join(words))] if words else []
        return given + self._given_calls() if self.enough else given

    def end(self) -> list[Part]:
        """The calls, or the text that was held back if they are not whole."""
        if self.enough:
            return []
        if self._calls and self._state in ("between", "closing"):
            return self._given_calls()
        return [Words("".join(self._held))] if self._held else []

    def _read(self, character: str, words: list[str]) -> None:
        if self._state == "words":
            self._read_word(character, words)
        elif not self._goes_on(character):
            # what was held is words; the white space at its end may stand before calls
            held = "".join(self._held)
            kept = held.rstrip(_BLANK)
            self._give_up(words, kept, held[len(kept) :])
            self._read_word(character, words)
        else:
            self._held.append(character)
            if self._call is not None and self._call.whole:
                self._take_call(words)

    def _give_up(self, words: list[str], text: str, blank: str = "") -> None:
        """Give what is no block of calls."""
        words.append(text)
        self._in_code |= self._fenced == "`"
        self._held, self._calls = [blank] * bool(blank), []
        self._state, self._call, self._fenced = "words", None, ""
        self._is_words = self._alone

    def _read_word(self, character: str, words: list[str]) -> None:
        """Read on where no block has begun."""
        if character in _BLANK and not self._is_words:
            self._held.append(character)
            return
        if character == "{" and (self._held or self._at_start) and not self._is_words:
            self._state = "call"
            self._begin_call()
            self._held.append(character)
        elif character == "<" and not self._alone and (self._held or self._at_start):
            self._state, self._fence = "opening", character
            self._held.append(character)
        elif character == "`" and not self._alone and self._on_a_line_of_its_own():
            self._state, self._fence = "leaving" if self._in_code else "opening", character
            self._held.append(character)
        else:
            words += [*self._held, character]
            self._held, self._is_words = [], self._alone
        self._at_start = False

    def _on_a_line_of_its_own(self) -> bool:
        return self._at_start or any("\n" in blank for blank in self._held)

    def _begin_call(self) -> None:
        self._call, self._begin = PartialCall(self._names), len(self._held)
        self._call.read("{")

    def _goes_on(self, character: str) -> bool:
        """Read on in what may be a block; False if the character cannot belong to it."""
        match self._state:
            case "call":
                assert self._call is not None
                self._call.read(character)
                return not self._call.broken
            case "opening":
                self._fence += character
                if self._fence == _TAG or self._fence.endswith("\n"):
                    self._state, self._fenced, self._separated = "between", self._fence[0], True
                return (
                    _TAG.startswith(self._fence) or _BEGUN_FENCE.fullmatch(self._fence) is not None
                )
            case "closing":
                self._fence += character
                marks = _END_TAG if self._fenced == "<" else "```"
                if self._fence == marks:
                    self._state, self._fenced, self._separated = "between", "", marks == _END_TAG
                return marks.startswith(self._fence)
            case "leaving":
                self._fence += character
                self._in_code = self._fence != "```"
                return character == "`" and self._in_code
            case _:
                return self._goes_on_between(character)

    def _goes_on_between(self, character: str) -> bool:
        """Read on behind a call or the marks of a fence."""
        if character in _BLANK:
            self._separated = True
        elif character == ";" and self._calls and not self._semicolon:
            self._separated = self._semicolon = True
        elif character == "{" and self._separated:
            self._state = "call"
            self._begin_call()
        elif character == self._fenced:
            self._state, self._fence = "closing", character
        elif character in "`<" and not self._fenced and self._separated and not self._alone:
            self._state, self._fence = "opening", character
        else:
            return False
        return True

    def _take_call(self, words: list[str]) -> None:
        """Take what was read as a call, if its values are those of one."""
        call = _whole_call("".join(self._held[self._begin :]))
        if call is None:
            self._give_up(words, "".join(self._held))
            return
        self._calls.append(call)
        self._state, self._call = "between", None
        self._separated = self._semicolon = False
        self.enough = self._single

    def _given_calls(self) -> list[Part]:
        self.called = True
        parts: list[Part] = []
        for index, call in enumerate(self._calls):
            parts += [_begin(index, call["name"]), Arguments(index, call["arguments"])]
        return parts


def _whole_call(text: str) -> dict[str, Any] | None:
    """The call that a whole `PartialCall` is; None if a part of it is missing or there twice, or no
    text.
    """
    try:
        value = json.loads(text)
        from_json(text)  # Python takes half a surrogate pair for JSON
    except ValueError:
        return None
    arguments = [value[key] for key in ("parameters", "arguments") if key in value]
    if "name" not in value or len(arguments) != 1:
        return None
    return {"name": value["name"], "arguments": json.dumps(arguments[0], ensure_ascii=False)}


def _begin(index: int, name: str) -> CallBegun:
    return CallBegun(index, f"call_{uuid.uuid4().hex[:24]}", name)
