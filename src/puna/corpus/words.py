"""Words of a text, as duplicates and decontamination compare them: runs of letters, digits and
underscores, lower case; a character each in scripts that write no spaces.
"""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import regex
import xxhash

_ASCII = re.compile(r"\w+", re.ASCII)
_ANY = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\p{L}\p{N}\p{M}_--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+",
    regex.V1,
)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: odd, its bits mixed


def words_of(text: str) -> list[str]:
    """The words in order; marks of punctuation are in none."""
    lowered = text.lower()
    # six times as fast, and the same words
    return _ASCII.findall(lowered) if lowered.isascii() else _ANY.findall(lowered)


def ngram_hashes(words: list[str], length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every run of `length` words: [len(words) - length + 1], or none.

    The sum of the words' hashes times powers of one base, modulo 2^64, as of Rabin and Karp: equal
    runs have equal hashes, and two others with a probability of about 2^-64.
    """
    count = len(words) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    hashes = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    total = np.zeros(count, dtype=np.uint64)
    for place in range(length):
        total *= _BASE
        total += hashes[place : place + count]
    return total


@lru_cache(maxsize=2**17)
def _word_hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode())
