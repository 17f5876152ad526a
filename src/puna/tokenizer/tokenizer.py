"""Text to token ids and back: byte-level BPE over Hugging Face `tokenizers`.

A `Tokenizer` is what a `tokenizer.json` says and nothing more: no padding, no truncation, no
special token added, and none read from text. Markers are placed by whoever lays ids out: the shard
writer between documents, `chat_template.py` around messages. Instances never change, and pickle to
the file's content, so a process pool can carry them.

Cost, measured on one core with Python source text: `encode` 1 MB a second, `encode_batch` 2 MB;
decoding is a table look-up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from puna.errors import TokenizerError
from puna.tokenizer.byte_level import read_definition
from puna.tokenizer.folder import build_config, read_folder, reject_other, write_folder
from puna.tokenizer.pretokenize import Digits, cut_text, encode_utf8
from puna.tokenizer.special import (
    BEGIN_OF_TEXT_NAMES,
    END_NAMES,
    END_OF_TEXT_NAMES,
    END_OF_TURN_NAMES,
    PAD_NAMES,
    first_id,
)
from puna.tokenizer.training import DEFAULT_SAMPLE_BYTES, train_definition

_PIECE_CHARACTERS = 1 << 18
_BATCH_CHARACTERS = 1 << 20


class Tokenizer:
    """A byte-level BPE vocabulary: trained here (`train`) or read from any model's folder (`load`).

    Lossless: `decode(encode(text)) == text` for every string without lone surrogates, unless the
    file brings a normalizer of its own (Qwen's composes accents to NFC). Safe from injection:
    `encode` never yields a special token, even for a text that spells one.
    """

    def __init__(self, definition: str, config: Mapping[str, Any] | None = None) -> None:
        """Take the content of a `tokenizer.json` and of the `tokenizer_config.json` beside it, if
        there is one.
        """
        read = read_definition(definition)
        self._definition = definition
        self._config = dict(config) if config is not None else build_config(read.special_tokens)
        self._backend = read.backend
        self._can_cut = read.can_cut
        self._special_tokens = dict(read.special_tokens)
        self._pieces = dict(read.pieces)
        self._text_pieces = self._pieces | dict.fromkeys(self._special_tokens.values(), b"")
        self._vocab_size = max(self._pieces) + 1
        self._digits = read.digits
        self._hash = read.sha256

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        digits: Digits = "one",
        max_bytes: int = DEFAULT_SAMPLE_BYTES,
        on_progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Learn a vocabulary from the first `max_bytes` bytes (UTF-8) of `texts`, read once and as
        a stream.

        `vocab_size` counts everything: 256 bytes, merges, 8 special tokens. A sample with too few
        repeated pairs gives a smaller vocabulary, so read `vocab_size` of the result. The same
        texts in the same order give the same vocabulary, byte for byte. `on_progress` gets the
        bytes read so far; the merging follows its last call. Since the sample is the beginning of
        the stream, the usual mistake is to feed sources one after the other; mix them (`take_turns`
        in `training.py`).

        Raises TokenizerError for no text, a vocabulary below 264, an unknown digits mode, or a
        sample size past the 32-bit pair counts.
        """
        return cls(train_definition(texts, vocab_size, digits, max_bytes, on_progress))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a model or tokenizer folder, or a `tokenizer.json`.

        Raises TokenizerError if it is missing, damaged, not byte-level BPE, or not the one that the
        model in the same folder was trained with.
        """
        definition, config = read_folder(Path(path))
        try:
            tokenizer = cls(definition, config)
            reject_other(Path(path), tokenizer.hash)
            return tokenizer
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, definition: str) -> Self:
        """Read the content of a `tokenizer.json`, such as `to_json` gives: the light way into
        another process.
        """
        return cls(definition)

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._definition

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `folder`, which may be a model's.

        transformers, vLLM and lm-evaluation-harness read them: `AutoTokenizer` gives the ids of
        `encode` with `add_special_tokens=False`, and <|begin_of_text|> before them by default, as
        Llama 3's does; it also reads special tokens out of text unless `split_special_tokens=True`.
        """
        write_folder(Path(folder), self._definition, self._config)

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any]]]:
        return type(self), (self._definition, self._config)

    def __repr__(self) -> str:
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, digits={self.digits!r},"
            f" hash={self.hash[:12]!r})"
        )

    # Text to ids and back

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token; starts no threads, so it is safe before and
        after a fork.

        Raises TokenizerError for lone surrogates. A long text is encoded in pieces, with the same
        ids, to keep memory flat.
        """
        try:
            return [
                id_
                for piece in self._cut(text)
                for id_ in self._backend.encode(piece, add_special_tokens=False).ids
            ]
        except TypeError:  # all that the library says of a lone surrogate
            encode_utf8(text)
            raise

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores and without character offsets, so at twice the speed
        even on one core.

        It starts threads: a child forked later runs it on one core, and `tokenizers` says so on
        standard error. Memory grows with the ids, at 8 to 40 bytes each, and with the longest
        stretch of text without a place to cut it.
        """
        cuts = [self._cut(text) for text in texts]
        try:
            ids = self._encode_pieces(chain.from_iterable(cuts))
            return [[id_ for _ in pieces for id_ in next(ids)] for pieces in cuts]
        except TypeError:
            for text in texts:
                encode_utf8(text)
            raise

    def _encode_pieces(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each piece, from batches of few enough pieces that the library's 150 bytes a
        byte of text stay flat.
        """
        for batch in _batches(pieces):
            for encoding in self._backend.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def encode_document(self, text: str) -> list[int]:
        """`text` as the beginning of a document: the begin token, where the vocabulary has one,
        then its ids. Prompts and scored texts begin as the documents of training do.
        """
        return self._begin + self.encode(text)

    def encode_documents(self, texts: Sequence[str], end: bool = False) -> list[list[int]]:
        """`encode_document` of each text, by `encode_batch`; `end` appends `eos_id` to each."""
        closing = [self.eos_id] if end else []
        return [self._begin + ids + closing for ids in self.encode_batch(texts)]

    @property
    def _begin(self) -> list[int]:
        return [] if self.bos_id is None else [self.bos_id]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids`; special tokens are spelled out unless `skip_special`.

        Bytes that form no character become U+FFFD, so join ids before decoding, or use
        `StreamDecoder`. Raises TokenizerError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The bytes of `ids`, which may begin or end inside a character."""
        pieces = self._text_pieces if skip_special else self._pieces
        try:
            return b"".join([pieces[id_] for id_ in ids])
        except KeyError as error:
            raise TokenizerError(
                f"id {error.args[0]} is not in this vocabulary of {self.vocab_size} tokens; decode"
                " with the tokenizer that encoded"
            ) from None

    def _cut(self, text: str) -> list[str]:
        return list(cut_text(text, _PIECE_CHARACTERS)) if self._can_cut else [text]

    # The vocabulary

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: the number of rows that an embedding needs."""
        return self._vocab_size

    @property
    def digits(self) -> Digits | None:
        """The digits mode, or None for a file whose pattern is none of those known."""
        return self._digits

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of `tokenizer.json` as canonical JSON: equal hashes mean equal ids, however
        it is indented.
        """
        return self._hash

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name to id, in id order, of the added tokens that the file marks as special.

        The others (Qwen's `<think>`) are text, as the file says: `encode` yields them, and they
        have bytes.
        """
        return dict(self._special_tokens)

    @property
    def config(self) -> Mapping[str, Any]:
        """The `tokenizer_config.json`, with the chat template; where there is none, one by the
        names of the special tokens.
        """
        return MappingProxyType(self._config)

    @property
    def bos_id(self) -> int | None:
        """The token that opens a document, or None in a vocabulary that has none (GPT-2, Qwen)."""
        return first_id(self._special_tokens, BEGIN_OF_TEXT_NAMES)

    @property
    def eos_id(self) -> int:
        """The token that closes a document; TokenizerError in a vocabulary that has none under a
        known name.
        """
        found = first_id(self._special_tokens, END_OF_TEXT_NAMES)
        if found is None:
            raise TokenizerError(
                "the vocabulary has no end-of-text token; its special tokens hold none of"
                f" {', '.join(END_OF_TEXT_NAMES)}"
            )
        return found

    @property
    def eot_id(self) -> int | None:
        """The token that closes one message of a chat, or None in a vocabulary without chats."""
        return first_id(self._special_tokens, END_OF_TURN_NAMES)

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a generation: those of a text's end, of a turn's, and of a message that
        waits for a tool, where the vocabulary has them.
        """
        return frozenset(
            self._special_tokens[name] for name in END_NAMES if name in self._special_tokens
        )

    @property
    def pad_id(self) -> int | None:
        """The token that fills a batch, or None."""
        return first_id(self._special_tokens, PAD_NAMES)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, perhaps part of a character; b"" for a special
        token.
        """
        return self.decode_bytes([token_id], skip_special=True)

    def token_lengths(self) -> npt.NDArray[np.int32]:
        """Bytes per token [V], 0 for special tokens and unused ids: the denominators of bits per
        byte.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for id_, piece in self._text_pieces.items():
            lengths[id_] = len(piece)
        return lengths


def _batches(pieces: Iterable[str]) -> Iterator[list[str]]:
    """Neighbouring pieces until together they pass `_BATCH_CHARACTERS`."""
    batch: list[str] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
