"""Ids of a text from the ids of its words, each of which the model merges once and which is then
remembered: `encode_batch` at several times its speed on one core, with the same ids.

A word is a piece that the vocabulary's pattern cuts; BPE merges inside it alone, and running text
is made of few distinct words. The library remembers words too, but asks its memory about each with
the cost of a token object; here the ids of a word are bytes, found and joined at C speed.

`regex` cuts here, Oniguruma in the library. The patterns are the same, the versions of Unicode are
not: a text with a character that only one of them calls a letter, a number or white space is left
to the library. Each character beyond ASCII is asked about once.

Cost, in processor time of one core with documentation in many languages, a hard case: the library
1.8 MB a second, words that are seen for the first time (a third of them all) 4, known ones 8.
Memory: at most twice `REMEMBERED` words of at most `LONGEST` characters, about 45 MB.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
from tokenizers import Regex, models, pre_tokenizers

from puna.tokenizer.byte_level import byte_characters
from puna.tokenizer.tokenizer import Tokenizer

REMEMBERED = 2**17
"""Words after which the older half is forgotten."""

LONGEST = 64
"""Characters of a word that is remembered."""

_CLASSES = (r"\p{L}", r"\p{N}", r"\s")
"""All that the patterns ask about a character beyond ASCII."""


class DocumentEncoder:
    """A tokenizer's documents as arrays of ids, for a stream of texts that is long.

    Not for several threads at once.
    """

    def __init__(self, tokenizer: Tokenizer, storage: np.dtype[Any]) -> None:
        """storage: the unsigned type of the ids, wide enough for all of the vocabulary."""
        self.tokenizer, self.storage = tokenizer, storage
        rule = tokenizer.word_rule
        self._words = None if rule is None else regex.compile(rule.pattern)
        self._ids = None if rule is None else _WordIds(rule.model, tokenizer.vocab_size, storage)
        self._begin = np.array(tokenizer.begin_ids, dtype=storage).tobytes()
        self._end = np.array([tokenizer.eos_id], dtype=storage).tobytes()

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        """The ids [T] of each text as a document, with the markers around it: those of
        `Tokenizer.encode_documents` with `end`, in the storage type.

        Raises TokenizerError as that does.
        """
        return [np.frombuffer(self._document(text), dtype=self.storage) for text in texts]

    @property
    def remembered(self) -> int:
        """Words whose ids are known now."""
        return 0 if self._ids is None else self._ids.count

    def _document(self, text: str) -> bytes:
        if self._words is not None and self._ids is not None:
            try:
                ids = b"".join(
                    [
                        b"".join(map(self._ids.__getitem__, self._words.findall(piece)))
                        for piece in self.tokenizer.cut(text)
                    ]
                )
                return self._begin + ids + self._end
            except (_UnlikeCharacterError, UnicodeEncodeError):
                pass  # for the library, which names a lone surrogate
        (listed,) = self.tokenizer.encode_documents([text], end=True)
        return np.array(listed, dtype=self.storage).tobytes()


class _UnlikeCharacterError(Exception):
    """A character that the two libraries class differently."""


class _WordIds(dict[str, bytes]):
    """The ids of words as bytes of the storage type: those asked for lately, and behind them those
    that were there before; what is asked for again comes to the front.
    """

    def __init__(self, model: models.Model, vocab_size: int, storage: np.dtype[Any]) -> None:
        super().__init__()
        self._model = model
        size = storage.itemsize
        every = np.arange(vocab_size, dtype=storage).tobytes()
        self._stored = [every[at : at + size] for at in range(0, len(every), size)]
        self._older: dict[str, bytes] = {}
        self._alike: set[str] = set()
        self._spelling = dict(enumerate(byte_characters()))
        self._library = [
            pre_tokenizers.Split(Regex(pattern), "removed", invert=True) for pattern in _CLASSES
        ]

    @property
    def count(self) -> int:
        """Words, those in both halves twice."""
        return len(self) + len(self._older)

    def __missing__(self, word: str) -> bytes:
        ids = self._older.get(word)
        if ids is None:
            if not word.isascii():
                self._check(word)
            spelled = word.encode().decode("latin-1").translate(self._spelling)
            ids = b"".join([self._stored[token.id] for token in self._model.tokenize(spelled)])
        if len(word) <= LONGEST:
            if len(self) >= REMEMBERED:
                self._older = dict(self)
                self.clear()
            self[word] = ids
        return ids

    def _check(self, word: str) -> None:
        for character in set(word) - self._alike:
            for pattern, library in zip(_CLASSES, self._library, strict=True):
                ours = regex.match(pattern, character) is not None
                if ours != bool(library.pre_tokenize_str(character)):
                    raise _UnlikeCharacterError
            self._alike.add(character)
