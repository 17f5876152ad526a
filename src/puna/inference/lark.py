"""Grammars in Lark's notation: scanned for what is not supported before the library reads them. No
syntax is checked beyond that.

The notation is the library's variant of Lark's (rules in small letters, terminals in capitals,
`/regexes/` as Rust's regex crate reads them). What it offers beyond text is rejected: special
tokens by name or number, since user text never yields one; what acts on sampling (`temperature`,
`max_tokens`, `stop`, `capture`), since nothing here would act on it; parameters and options. A
schema after `%json` is read like one that stands alone.
"""

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from puna.errors import RequestError
from puna.inference.constraint_limits import (
    ConstraintLimits,
    check_regex,
    check_size,
    written_out,
)
from puna.inference.json_schema import read_schema

# As the library cuts a grammar, so that nothing hides from this scan in what one of the two takes
# for a text or a comment
_PIECE = re.compile(
    r"""(?P<space>[ \t]+|(?:\#|//)[^\n]*)
    |(?P<line>(?:\r?\n)+[ \t]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?)
    |(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
    |(?P<directive>%[a-z]+)
    |(?P<name>[!?_]*[A-Za-z][A-Za-z0-9_-]*)
    |(?P<number>[+-]?[0-9]+)
    |(?P<sign>->|\.\.|[:|(){}\[\]~&=+*?,.])""",
    re.VERBOSE | re.DOTALL,
)
_ATTRIBUTES = ("lazy", "suffix")


def read_grammar(text: str, limits: ConstraintLimits) -> str:
    """The grammar for llguidance, without comments. Raises RequestError for what is not supported
    or asks for too much.
    """
    return "".join(_Scan(text, limits).pieces())


class _Scan:
    """One pass over one grammar."""

    def __init__(self, text: str, limits: ConstraintLimits) -> None:
        self._text, self._limits = text, limits
        self._position = 0
        self._in_head = False  # between the name that a line begins with and its colon
        self._in_terminal = False
        self._alternatives = 0
        self._rules = 0
        self._repeats = 1
        self._longest = 1

    def pieces(self) -> Iterator[str]:
        # Comments are dropped, blanks shortened: neither changes a grammar's meaning
        begins_line = True
        while self._position < len(self._text):
            piece = _PIECE.match(self._text, self._position)
            if piece is None or piece.lastgroup is None:
                self._reject(
                    f"{self._text[self._position :][:20]!r} is not supported (no special"
                    " tokens, parameters or other grammars)"
                )
            if piece.lastgroup == "directive":
                yield self._directive(piece[0], piece.end())
            else:
                self._check(piece.lastgroup, piece[0], begins_line)
                self._position = piece.end()
                yield " " if piece.lastgroup == "space" else piece[0]
            begins_line = piece.lastgroup == "line" or (begins_line and piece.lastgroup == "space")

    def _check(self, kind: str, piece: str, begins_line: bool) -> None:
        # A bracket counts as the unnamed rule that it is
        if (kind == "name" and begins_line) or piece in ("(", "["):
            self._rules += 1
            check_size(self._rules, "max_rules", self._limits, "the grammar")
        if kind == "name" and begins_line:
            self._in_head = True
            self._in_terminal = piece.lstrip("!?_")[0].isupper()
        elif kind == "name" and self._in_head and piece not in _ATTRIBUTES:
            self._reject(
                f"the attribute {piece!r} is not supported, but only {' and '.join(_ATTRIBUTES)};"
                " leave it out"
            )
        elif piece == ":":
            self._in_head = False
        elif piece == "|" and not self._in_terminal:
            self._alternatives += 1
            check_size(self._alternatives, "max_alternatives", self._limits, "the grammar")
        elif kind == "regex":
            body = piece[1 : piece.rindex("/")]
            if "x" in piece[piece.rindex("/") :]:
                self._reject(
                    f"the flag x of {piece[:80]} is not supported; write it without spaces"
                )
            check_regex(body, self._limits, "the grammar")
            self._lengthen(written_out(body), 1)
        elif kind == "text":
            self._lengthen(len(piece), 1)
        elif kind == "number" and self._in_terminal and not self._in_head:
            # a repeat count; 20 digits are beyond any limit, and cheap to read
            self._lengthen(1, max(abs(int(piece[:20])), 1))

    def _lengthen(self, length: int, repeats: int) -> None:
        """A terminal is one regex with those that it names written out; each may repeat the
        others.
        """
        # An upper bound over all terminals, since which names which is not resolved here
        self._longest = max(self._longest, length)
        self._repeats *= repeats
        check_size(
            self._longest * self._repeats,
            "max_written_out",
            self._limits,
            "a terminal of the grammar",
        )

    def _directive(self, name: str, end: int) -> str:
        if name in ("%ignore", "%import"):
            self._position = end
            self._in_terminal = True  # what is ignored is one
            return name
        if name not in ("%json", "%regex"):
            self._reject(f"{name} is not supported; leave it out")
        start = end + len(self._text[end:]) - len(self._text[end:].lstrip())
        try:
            _, self._position = json.JSONDecoder().raw_decode(self._text, start)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"the grammar has no JSON after {name} ({error}); write it there"
            ) from error
        inner = self._text[start : self._position]
        if name == "%json":
            inner = json.dumps(read_schema(inner, self._limits))
        return f"{name} {inner}"

    def _reject(self, reason: str) -> NoReturn:
        line = self._text.count("\n", 0, self._position) + 1
        raise RequestError(f"the grammar, line {line}: {reason}")
