"""Near-duplicates by MinHash signatures and locality-sensitive hashing: keys of bands such that two
documents whose words overlap much share one of them.

    shingles of n words -> signature of b x r minima (rensa) -> b keys, each of r minima

Two documents of Jaccard similarity s share a key with probability 1 - (1 - s^r)^b, the curve of
`match_probability`; with the defaults, 14 bands of 8 minima: 0.01 at 0.4, 0.05 at 0.5, 0.56 at 0.7,
0.92 at 0.8 and 0.9996 at 0.9. Documents that share a key are taken for near-duplicates without a
further look, and so is what is connected through others (`duplicates.py`).

Sources: Broder 1997, On the resemblance and containment of documents; Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, chapter 3.4; the parameters are those of FineWeb (Penedo et al.
2024). The usual mistake: fewer minima a band for more recall, which is paid with pairs of little in
common. A document of fewer words than a shingle has is compared as one shingle.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field

from puna.config import Config
from puna.corpus.extra_packages import import_extra
from puna.corpus.pieces import Keys
from puna.corpus.words import words_of


class NearDuplicateOptions(Config):
    """Options of the stage `near_duplicates`."""

    words: int = Field(default=5, ge=1, description="of a shingle")
    bands: int = Field(default=14, ge=1)
    rows: int = Field(default=8, ge=1, description="minima of a band")
    seed: int = 1

    def match_probability(self, similarity: float) -> float:
        """The probability that two documents of this Jaccard similarity share a band."""
        return 1.0 - (1.0 - similarity**self.rows) ** self.bands


def band_keys(texts: Sequence[str], options: NearDuplicateOptions) -> Keys:
    """The keys of each text's bands: [bands, texts]. Raises DataError where rensa is not
    installed.
    """
    rensa = import_extra("rensa", "corpus", "the stage near_duplicates")
    length = options.bands * options.rows
    minima = np.empty((len(texts), length), dtype=np.uint32)
    for number, text in enumerate(texts):
        signature = rensa.RMinHash(num_perm=length, seed=options.seed)
        signature.update(shingles(text, options.words))
        minima[number] = signature.digest()
    return keys_of(minima, options)


def shingles(text: str, length: int) -> list[str]:
    """Every run of `length` words of the text, joined by spaces."""
    words = words_of(text)
    if len(words) <= length:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[place:] for place in range(length)), strict=False)))


def keys_of(minima: npt.NDArray[np.uint32], options: NearDuplicateOptions) -> Keys:
    """The keys [bands, texts] of signatures uint32 [texts, bands x rows]: equal where all minima of
    a band are, else with a probability of 2^-64.
    """
    bands = np.ascontiguousarray(minima, dtype="<u4").reshape(-1, options.bands, options.rows)
    keys = [xxhash.xxh3_64_intdigest(band) for text in bands for band in text]
    return np.array(keys, dtype=np.uint64).reshape(len(minima), options.bands).T
