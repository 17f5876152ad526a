"""Text to token ids, over Hugging Face `tokenizers`; `vocabulary.py` has the way back.

A `Tokenizer` is what a `tokenizer.json` says and nothing more: no padding, no truncation, no
special token added, and none read from text. Markers are placed by whoever lays ids out: the shard
writer between documents, `chat_template.py` around messages. Instances never change, and pickle to
the file's content, so a process pool can carry them.

Cost, measured on one core with Python source text: `encode` 1 MB a second, `encode_batch` 2 MB.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import tokenizers

from puna.errors import PunaError, TokenizerError
from puna.tokenizer.backend import without_prefix
from puna.tokenizer.byte_level import reject_bytes
from puna.tokenizer.folder import build_config, read_folder, reject_other, write_folder
from puna.tokenizer.pretokenize import SPLIT_PATTERNS, Digits, cut_text, encode_utf8
from puna.tokenizer.roles import END_IDS_KEY, find_roles
from puna.tokenizer.text_loss import describe_loss
from puna.tokenizer.tokenizer_json import read_definition
from puna.tokenizer.training import DEFAULT_SAMPLE_BYTES, train_definition
from puna.tokenizer.vocabulary import Vocabulary

_PIECE_CHARACTERS = 1 << 18
_BATCH_CHARACTERS = 1 << 20


class WordRule(NamedTuple):
    """A vocabulary's words, each merged by itself."""

    pattern: str
    """A regular expression: its matches are the words of a text, one behind the other."""
    model: tokenizers.models.Model
    """The ids of one word, spelled in byte characters."""


class Tokenizer(Vocabulary):
    """A vocabulary: byte-level BPE trained here (`train`), or any that `tokenizers` runs, read from
    a model's folder or a vocabulary file (`load`).

    Safe from injection: `encode` never yields a special token, even for a text that spells one; the
    one exception marks nothing, the token for characters without another, such as <unk>. What is
    trained here is lossless: `decode(encode(text)) == text` for every string without lone
    surrogates. Of others, `loss` says what does not come back.
    """

    def __init__(
        self,
        definition: str,
        config: Mapping[str, Any] | None = None,
        end_ids: Iterable[int] = (),
    ) -> None:
        """Take the content of a `tokenizer.json`, of the `tokenizer_config.json` beside it, if
        there is one, and the ids that end a generation, if the model's folder names them.

        Raises TokenizerError for a damaged content, and where the configuration contradicts it.
        """
        self._given = None if config is None else dict(config)
        self._given_ends = tuple(end_ids)
        super().__init__(read_definition(definition, config), config, self._given_ends)

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
        """Read a model or tokenizer folder, a `tokenizer.json`, or a vocabulary in another form:
        SentencePiece's and tiktoken's `tokenizer.model`, a `vocab.json` beside its `merges.txt`.

        Raises TokenizerError if it is missing or damaged, or not the one that the model in the same
        folder was trained with.
        """
        try:
            files = read_folder(Path(path))
            tokenizer = cls(files.definition, files.config, files.end_ids)
            reject_other(Path(path), lambda: tokenizer.hash)
            return tokenizer
        except TokenizerError as error:
            if str(path) in str(error):
                raise
            raise TokenizerError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, definition: str) -> Self:
        """Read the content of a `tokenizer.json`, such as `to_json` gives: the light way into
        another process. Roles of a configuration are not in it; pickle the tokenizer to keep them.
        """
        return cls(definition)

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._read.text

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `folder`, which may be a model's.

        transformers, vLLM and lm-evaluation-harness read them: `AutoTokenizer` gives the ids of
        `encode` with `add_special_tokens=False`, and `encode_document`'s by default; it also reads
        special tokens out of text unless `split_special_tokens=True`.
        """
        config = dict(self.config)
        by_role = find_roles(
            self._read.post_processor, config, self._special_tokens, self._vocab_size, None
        )
        if by_role.ends != self.end_ids:
            config[END_IDS_KEY] = sorted(self.end_ids)
        write_folder(Path(folder), self._read.text, config)

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any] | None, tuple[int, ...]]]:
        return type(self), (self._read.text, self._given, self._given_ends)

    def __repr__(self) -> str:
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, digits={self.digits!r},"
            f" hash={self.hash[:12]!r})"
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The `tokenizer_config.json`, with the chat template; where there is none, one by the
        names of the special tokens.
        """
        return MappingProxyType(self._config)

    @cached_property
    def _config(self) -> dict[str, Any]:
        if self._given is not None:
            return self._given
        config = build_config(self._special_tokens)
        if self._roles.begin and not self._read.post_processor:
            config["add_bos_token"] = True
        return config

    @cached_property
    def loss(self) -> str | None:
        """A sentence on the texts that do not come back as they were, or None where none is known;
        for what is trained here there is none.
        """
        return describe_loss(
            lambda text: self.decode(self.encode(text)), self._read.missing, self._read.can_cut
        )

    # Text to ids

    def encode(self, text: str, *, inside_text: bool = False) -> list[int]:
        """The ids of `text`, without any special token; starts no threads, so it is safe before and
        after a fork. inside_text: other text comes before, so that no space is put in front.

        Raises TokenizerError for lone surrogates, and for a character that the vocabulary cannot
        hold in any way. A long text of a known pattern is encoded in pieces, with the same ids, to
        keep memory flat.
        """
        with self._faults_of([text]):
            self.reject_missing(text)
            backend = self._inner_backend if inside_text else self._read.backend
            return self._checked(
                [
                    id_
                    for piece in self.cut(text)
                    for id_ in backend.encode(piece, add_special_tokens=False).ids
                ]
            )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores and without character offsets, so at twice the speed
        even on one core.

        It starts threads: a child forked later runs it on one core, and `tokenizers` says so on
        standard error. Memory grows with the ids, at 8 to 40 bytes each, and with the longest
        stretch of text without a place to cut it.
        """
        cuts = [self.cut(text) for text in texts]
        with self._faults_of(texts):
            for text in texts:
                self.reject_missing(text)
            ids = self._encode_pieces(chain.from_iterable(cuts))
            return [self._checked([id_ for _ in pieces for id_ in next(ids)]) for pieces in cuts]

    def _encode_pieces(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each piece, from batches of few enough pieces that the library's 150 bytes a
        byte of text stay flat.
        """
        for batch in _batches(pieces):
            for encoding in self._read.backend.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def encode_with_special(self, text: str) -> list[int]:
        """The ids of `text` with every special token that it spells as that token's id, for text
        that no user wrote: exactly what `tokenizers` gives with add_special_tokens=False.
        """
        with self._faults_of([text]):
            self.reject_missing(text)
            return list(self._marking_backend.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _inner_backend(self) -> tokenizers.Tokenizer:
        if not self._puts_space:
            return self._read.backend
        content = without_prefix(json.loads(self._read.text))
        return read_definition(json.dumps(content)).backend

    @contextmanager
    def _faults_of(self, texts: Sequence[str]) -> Iterator[None]:
        """Turn the library's errors while it encodes `texts` into a TokenizerError."""
        try:
            yield
        except PunaError:
            raise
        except Exception as error:  # TypeError for a lone surrogate, plain Exception for all else
            for text in texts:
                encode_utf8(text)
            raise TokenizerError(
                f"the tokenizer cannot encode the text ({error}); its file is damaged, copy or"
                " train it again"
            ) from error

    def reject_missing(self, text: str) -> None:
        """Raise TokenizerError where `text` has a byte that the vocabulary has no token for, naming
        the character and its place.
        """
        if self._read.missing:
            reject_bytes(text, self._read.missing)

    def _checked(self, ids: list[int]) -> list[int]:
        """The ids, if none of them ends or begins a text: some files give unknown characters the
        token of an end.
        """
        unknown = self._read.unknown_id
        if unknown is not None and unknown in self._structural and unknown in ids:
            before = self.decode(ids[: ids.index(unknown)])
            raise TokenizerError(
                f"the text holds a character behind {before[-40:]!r} that has no token in this"
                f" vocabulary, whose token for such is {self._read.tokens[unknown]!r}, which also"
                " begins or ends a text; remove the character, or use another tokenizer"
            )
        return ids

    def encode_document(self, text: str) -> list[int]:
        """`text` as the beginning of a document: the begin token, where documents open with one,
        then its ids. Prompts and scored texts begin as the documents of training do.
        """
        return self.begin_ids + self.encode(text)

    def encode_documents(self, texts: Sequence[str], end: bool = False) -> list[list[int]]:
        """`encode_document` of each text, by `encode_batch`; `end` appends `eos_id` to each."""
        closing = [self.eos_id] if end else []
        return [self.begin_ids + ids + closing for ids in self.encode_batch(texts)]

    @property
    def begin_ids(self) -> list[int]:
        """The ids that open a document; none in many vocabularies."""
        return list(self._roles.begin)

    @property
    def word_rule(self) -> WordRule | None:
        """The words that every text's ids are made of, or None where they are not: for a pattern
        that is not known, a changed text (a normalizer, a space in front), and a vocabulary that
        lacks bytes.
        """
        read = self._read
        if read.digits is None or not self._can_cut or read.missing:
            return None
        return WordRule(SPLIT_PATTERNS[read.digits], read.backend.model)

    def cut(self, text: str) -> list[str]:
        """A long text in pieces whose ids together are those of the text, where that is known to
        hold; they keep memory flat.
        """
        return list(cut_text(text, _PIECE_CHARACTERS)) if self._can_cut else [text]

    @cached_property
    def _can_cut(self) -> bool:
        # a space in front of a text would stand in front of each piece
        return self._read.can_cut and not self._puts_space


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
