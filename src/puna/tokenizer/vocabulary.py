"""Token ids to text, and the ids with a role: the half of a tokenizer that reads no text.

Decoding is a table look-up in byte-level vocabularies, a few operations an id in those with byte
fallback, and `tokenizers`' own in any other.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from puna.errors import TokenizerError
from puna.tokenizer.backend import build_backend
from puna.tokenizer.decoding import (
    BackendJoiner,
    ByteJoiner,
    FallbackJoiner,
    TextJoiner,
    unknown_id,
)
from puna.tokenizer.pretokenize import Digits
from puna.tokenizer.roles import find_roles
from puna.tokenizer.special import END_OF_TEXT_NAMES
from puna.tokenizer.tokenizer_json import Definition


class Vocabulary:
    """The tokens of a definition by id, as bytes and as text, and their roles."""

    def __init__(
        self, read: Definition, config: Mapping[str, Any] | None, end_ids: Iterable[int]
    ) -> None:
        """config, end_ids: as in `find_roles`."""
        self._read = read
        self._special_tokens = dict(read.special_tokens)
        self._special_ids = frozenset(self._special_tokens.values())
        self._vocab_size = max(read.tokens) + 1
        self._roles = find_roles(
            read.post_processor, config, self._special_tokens, self._vocab_size, end_ids
        )
        self._pieces = read.pieces
        self._text_pieces = {**read.pieces, **dict.fromkeys(self._special_ids, b"")}

    def decode(
        self, ids: Iterable[int], skip_special: bool = False, *, inside_text: bool = False
    ) -> str:
        """The text of `ids`; special tokens are spelled out unless `skip_special`. inside_text:
        other text comes before, so that a space in front is one.

        Bytes that form no character become U+FFFD, so join ids before decoding, or use
        `StreamDecoder`. An id that the vocabulary leaves out gives nothing, one past its end raises
        TokenizerError.
        """
        if self.byte_level:
            return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")
        numbers = [int(id_) for id_ in ids]
        for id_ in numbers:
            self._piece(id_, skip_special)
        if self._read.rules is None and not inside_text:
            return self._decode_all(numbers, skip_special)
        joiner = self.joiner(skip_special, inside_text=inside_text)
        return "".join(map(joiner.feed, numbers)) + joiner.flush()

    def joiner(self, skip_special: bool = False, *, inside_text: bool = False) -> TextJoiner:
        """A decoder of one stream of ids, of the vocabulary's kind; `StreamDecoder` checks its
        ids.
        """
        if self.byte_level:
            return ByteJoiner(lambda id_: self._piece(id_, skip_special))
        if self._read.rules is not None:
            skipped = self._special_ids if skip_special else frozenset[int]()
            return FallbackJoiner(
                self._read.rules, self._read.tokens.get, skipped, inside_text=inside_text
            )
        ordinary = next((id_ for id_, token in self._read.tokens.items() if token.isalpha()), 0)
        return BackendJoiner(
            lambda ids: self._decode_all(ids, skip_special), ordinary, inside_text=inside_text
        )

    def _decode_all(self, ids: Sequence[int], skip_special: bool) -> str:
        kept = [id_ for id_ in ids if not (skip_special and id_ in self._special_ids)]
        return self._marking_backend.decode(kept, skip_special_tokens=False)

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The bytes of `ids`, which may begin or end inside a character. Unlike `decode`, it keeps
        the space that some vocabularies put before a text.
        """
        return b"".join([self._piece(id_, skip_special) for id_ in ids])

    def _piece(self, id_: int, skip_special: bool) -> bytes:
        piece = (self._text_pieces if skip_special else self._pieces).get(id_)
        if piece is None:
            if not 0 <= id_ < self._vocab_size:
                raise unknown_id(id_, self._vocab_size)
            return b""
        return piece

    @cached_property
    def _marking_backend(self) -> tokenizers.Tokenizer:
        """A second encoder: the setting is the encoder's, not the call's, and threads share it."""
        return build_backend(self._read.text, encode_special=True)

    @cached_property
    def _structural(self) -> frozenset[int]:
        eos = () if self._roles.eos is None else (self._roles.eos,)
        return self._roles.ends.union(self._roles.begin, eos)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: the number of rows that an embedding needs."""
        return self._vocab_size

    @property
    def byte_level(self) -> bool:
        """True where tokens are spelled in byte characters, so that the bytes of ids are those of
        their text.
        """
        return self._read.byte_level

    @property
    def digits(self) -> Digits | None:
        """The digits mode, or None for a file whose pattern is none of those known."""
        return self._read.digits

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of `tokenizer.json` as canonical JSON: equal hashes mean equal ids, however
        it is indented.
        """
        return self._read.sha256

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name to id, in id order, of the added tokens that the file marks as special.

        The others (Qwen's `<think>`) are text, as the file says: `encode` yields them, and they
        have bytes.
        """
        return dict(self._special_tokens)

    @property
    def bos_id(self) -> int | None:
        """The token that opens a document, or None where documents open with none (GPT-2, Qwen)."""
        return self._roles.begin[0] if self._roles.begin else None

    @property
    def eos_id(self) -> int:
        """The token that closes a document; TokenizerError in a vocabulary that has none in this
        role, nor under a known name.
        """
        if self._roles.eos is None:
            raise TokenizerError(
                "the vocabulary has no end-of-text token: tokenizer_config.json has no eos_token,"
                f" and the special tokens hold none of {', '.join(END_OF_TEXT_NAMES)}; add"
                " eos_token"
            )
        return self._roles.eos

    @property
    def eot_id(self) -> int | None:
        """The token that closes one message of a chat, or None in a vocabulary without chats."""
        return self._roles.eot

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a generation, by the rule of `roles.py`."""
        return self._roles.ends

    @property
    def pad_id(self) -> int | None:
        """The token that fills a batch, or None."""
        return self._roles.pad

    def holds_text(self, ids: Iterable[int]) -> bool:
        """True where one of `ids` is no special token."""
        return not self._special_ids.issuperset(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, perhaps part of a character; b"" for a special
        token.
        """
        return self.decode_bytes([token_id], skip_special=True)

    def token_lengths(self) -> npt.NDArray[np.int32]:
        """Bytes per token [V], 0 for special tokens and unused ids: the denominators of bits per
        byte. Inside a text; see `byte_lengths` for its beginning.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for id_, piece in self._text_pieces.items():
            lengths[id_] = len(piece)
        return lengths

    def byte_lengths(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
        """Bytes of text that each of `ids` [T] stands for, of one or several documents: as
        `token_lengths`, but a space that the vocabulary puts before a text is no byte of it. A text
        begins at the front, and behind every special token.
        """
        lengths: npt.NDArray[np.int32] = self.token_lengths()[ids]
        if self._puts_space and len(ids):
            begins = np.concatenate(([True], np.isin(ids[:-1], list(self._special_ids))))
            spaced = [id_ for id_, piece in self._text_pieces.items() if piece.startswith(b" ")]
            lengths[begins & np.isin(ids, spaced)] -= 1
        return lengths

    @cached_property
    def _puts_space(self) -> bool:
        return (
            self.decode_bytes(self._read.backend.encode("a", add_special_tokens=False).ids) == b" a"
        )
