"""Text from token ids one at a time, for every kind of vocabulary: what `tokenizers` decodes from
all ids at once, in pieces that are certain.

    byte-level      bytes are joined, and shown character by character
    byte fallback   (LLaMA 1 and 2, Mistral, Gemma) a token is text, or one byte "<0x0A>"; a run of
                    such bytes is UTF-8 as a whole, or one U+FFFD for each byte; a space before the
                    first word is taken off
    any other       (WordPiece, </w>) `tokenizers` decodes what came so far, with and without a
                    token behind it, and what both agree on is certain

A run of bytes is held back until it ends, since one wrong byte changes all of it.
"""

import codecs
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from puna.errors import TokenizerError

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextJoiner(Protocol):
    """Ids in, text out; the pieces join to the text of all ids."""

    def feed(self, token_id: int) -> str:
        """Take one id and return the text that is now certain."""

    def flush(self) -> str:
        """Return the rest of the text, and be ready for a new one."""


@dataclass(frozen=True)
class FallbackRules:
    """The decoder of a vocabulary with byte fallback, as far as ids do not decide it.

    replaced: (character of the vocabulary, text), usually "▁" and a space. bytes_fall_back: tokens
    such as <0x0A> are bytes. stripped: leading spaces taken off the whole text, at most.
    bare_first: the character, if the first token loses all of them (Metaspace).
    """

    replaced: tuple[tuple[str, str], ...] = ()
    bytes_fall_back: bool = False
    stripped: int = 0
    bare_first: str | None = None

    def spell(self, token: str) -> bytes:
        """The bytes of a token that is not the first."""
        if self.bytes_fall_back and BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        for old, new in self.replaced:
            token = token.replace(old, new)
        return token.encode("utf-8")


def read_fallback_rules(decoder: Mapping[str, Any] | None) -> FallbackRules | None:
    """The rules of a `tokenizer.json`'s `decoder` entry, or None for a decoder of another kind.

    Steps are those of `tokenizers`: Replace, Metaspace and ByteFallback in any order, then Fuse,
    then Strip of a space on the left.
    """
    if decoder is None:
        return None
    steps = decoder.get("decoders", [decoder])
    replaced: list[tuple[str, str]] = []
    bare_first, fused, stripped, falls_back = None, False, 0, False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if (
                not fused
            ):
                replaced.append((old, new))
            case {"type": "Metaspace", "replacement": str(old)} if not fused:
                replaced.append((old, " "))
                scheme = step.get("prepend_scheme", "always")
                prepends = scheme != "never" and step.get("add_prefix_space", True)
                bare_first = old if prepends else None
            case {"type": "ByteFallback"} if not fused:
                falls_back = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused:
                stripped += start
            case _:
                return None
    return FallbackRules(tuple(replaced), falls_back, stripped, bare_first)


class ByteJoiner:
    """The joiner of byte-level vocabularies. It holds back at most three bytes."""

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """See `TextJoiner`; bytes that form no character become U+FFFD."""
        return self._utf8.decode(self._piece(token_id))

    def flush(self) -> str:
        """See `TextJoiner`."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class FallbackJoiner:
    """The joiner of vocabularies with byte fallback, and of those that mark spaces with "▁"."""

    def __init__(
        self,
        rules: FallbackRules,
        token: Callable[[int], str | None],
        skipped: Collection[int] = (),
        *,
        inside_text: bool = False,
    ) -> None:
        """token: the spelling of an id, None where it has none. inside_text: other text came
        before.
        """
        self._rules, self._token, self._skipped = rules, token, skipped
        self._inside = inside_text
        self._begin()

    def _begin(self) -> None:
        self._run = b""
        self._first = not self._inside
        self._strip = 0 if self._inside else self._rules.stripped

    def feed(self, token_id: int) -> str:
        """See `TextJoiner`."""
        token = self._token(token_id)
        if token is None or token_id in self._skipped:
            return ""
        first, self._first = self._first, False
        piece = self._rules.spell(token)
        if self._rules.bytes_fall_back and BYTE_TOKEN.fullmatch(token):
            self._run += piece
            return ""
        if first and self._rules.bare_first:
            piece = self._rules.spell(token.replace(self._rules.bare_first, ""))
        return self._stripped(self._end_run() + piece.decode("utf-8"))

    def flush(self) -> str:
        """See `TextJoiner`."""
        rest = self._stripped(self._end_run())
        self._begin()
        return rest

    def _end_run(self) -> str:
        run, self._run = self._run, b""
        try:
            return run.decode("utf-8")
        except UnicodeDecodeError:
            return _REPLACEMENT * len(run)

    def _stripped(self, text: str) -> str:
        while self._strip and text.startswith(" "):
            text = text[1:]
            self._strip -= 1
        if text:
            self._strip = 0
        return text


class BackendJoiner:
    """The joiner of any other vocabulary. A step takes time in proportion to the ids so far."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        ordinary: int,
        *,
        inside_text: bool = False,
    ) -> None:
        """ordinary: a token of text, put behind the ids to see what is certain, and before them
        where other text came before (inside_text).
        """
        self._decode, self._ordinary = decode, ordinary
        self._before = [ordinary] * inside_text
        self._begin()

    def _begin(self) -> None:
        self._ids = list(self._before)
        self._shown = _decoded_before(self._decode, self._ordinary) if self._before else ""

    def feed(self, token_id: int) -> str:
        """See `TextJoiner`."""
        self._ids.append(token_id)
        now, later = self._decode(self._ids), self._decode([*self._ids, self._ordinary])
        certain = _common_beginning(now, later).rstrip(_REPLACEMENT)
        if len(certain) <= len(self._shown):
            return ""
        new, self._shown = certain[len(self._shown) :], certain
        return new

    def flush(self) -> str:
        """See `TextJoiner`."""
        rest = self._decode(self._ids)[len(self._shown) :]
        self._begin()
        return rest


def _decoded_before(decode: Callable[[Sequence[int]], str], ordinary: int) -> str:
    """The text of an ordinary token as it stands in front of another."""
    return _common_beginning(decode([ordinary]), decode([ordinary, ordinary]))


def _common_beginning(one: str, other: str) -> str:
    differ = (index for index, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1)
    return one[: next(differ, min(len(one), len(other)))]


def unknown_id(token_id: int, vocab_size: int) -> TokenizerError:
    """The error for an id outside a vocabulary of `vocab_size` tokens."""
    return TokenizerError(
        f"id {token_id} is not in this vocabulary of {vocab_size} tokens; decode with the tokenizer"
        " that encoded"
    )
