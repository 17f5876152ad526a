"""The slow twin of `PossibleCalls`: it reads the whole text again at every piece."""

import json
import re
from collections.abc import Collection
from typing import Any

from pydantic_core import from_json

KEYS = {"type", "name", "parameters", "arguments"}
FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)')

Given = list[tuple[str, str]]
"""Words are ("", text), a call is (name, arguments)."""


class RereadCalls:
    """As `PossibleCalls`, with calls whole instead of in parts."""

    def __init__(self, names: Collection[str], single: bool) -> None:
        self.enough = False
        self.names, self.single = names, single
        self.text, self.is_words = "", False

    def feed(self, text: str) -> Given:
        if self.is_words:
            return [("", text)] if text else []
        self.text += text
        found, _, fits = self.read()
        self.enough = self.single and bool(found)
        if self.enough:
            return found
        self.is_words = not fits
        return [("", self.text)] if self.is_words else []

    def end(self) -> Given:
        if self.is_words or self.enough:
            return []
        found, rest, _ = self.read()
        return (
            found if found and not rest.strip("; \t\r\n") else [("", self.text)] * bool(self.text)
        )

    def read(self) -> tuple[Given, str, bool]:
        """The whole calls, what stands behind them, and whether that may become more."""
        found: Given = []
        rest = self.text
        while True:
            ahead = rest.lstrip()
            if found and ahead:
                if ahead[0] != ";":
                    return found, rest, False
                ahead = ahead[1:].lstrip()
            if not ahead:
                return found, rest, True
            try:
                value, size = json.JSONDecoder().raw_decode(ahead)
            except (ValueError, RecursionError):
                return found, rest, self.may_become_call(ahead)
            call = self.call_in(value, ahead[:size])
            if call is None:
                return found, rest, False
            found.append(call)
            rest = ahead[size:]
            if self.single:
                return found, rest, True

    def call_in(self, value: Any, text: str) -> tuple[str, str] | None:
        try:
            from_json(text, allow_inf_nan=False)
        except ValueError:
            return None
        if not isinstance(value, dict) or not set(value) <= KEYS:
            return None
        arguments = [value[key] for key in ("parameters", "arguments") if key in value]
        if (
            value.get("type", "function") == "function"
            and isinstance(value.get("name"), str)
            and value["name"] in self.names
            and len(arguments) == 1
            and isinstance(arguments[0], dict)
        ):
            return value["name"], json.dumps(arguments[0], ensure_ascii=False)
        return None

    def may_become_call(self, text: str) -> bool:
        first = FIRST_KEY.match(text)
        if first is not None and not any(key.startswith(first[1]) for key in KEYS):
            return False
        try:
            from_json(text)
        except ValueError as error:
            if not str(error).startswith("EOF while parsing"):
                return False  # no text behind it makes this JSON
        try:
            value = from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return False
        if not isinstance(value, dict) or not set(value) <= KEYS:
            return False
        name, kind = value.get("name", ""), value.get("type", "function")
        return (
            isinstance(name, str)
            and any(known.startswith(name) for known in self.names)
            and isinstance(kind, str)
            and "function".startswith(kind)
            and isinstance(value.get("parameters", {}), dict)
        )
