"""The split of a corpus: by the hash of each document, and in a small corpus by its bytes where the
hash would hold out nothing, everything or far too much.

What it is not: it reads no files and knows no sources; a validation text of its own needs no plan.

Cost: the hash and size of each document of the first 16 MiB; more only while all documents so far
are on one side.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from puna.data.dedup import document_hash, split_of
from puna.data.manifest import SplitName
from puna.errors import DataError

SMALL_BYTES = 2**24
"""UTF-8 bytes of a small corpus: it is looked at as a whole. At 256 documents, pieces of 64 KiB,
the share that the hash holds out has a standard deviation of a quarter of its mean at a fraction
of 0.05.
"""
MOST = 2
"""Times the fraction that a small corpus may hold out of its bytes by the hash."""
_CUTTABLE_BYTES = 5  # two characters at least, white space around them not counted


class DocumentSize(NamedTuple):
    """One document of a corpus, copies left out."""

    hash: int
    """`document_hash` of its text."""
    size: int
    """UTF-8 bytes of its text."""
    dense: int
    """Those without the white space around it."""

    @classmethod
    def of(cls, text: str) -> Self:
        """The document with this text."""
        encoded = text.encode()
        return cls(document_hash(encoded), len(encoded), len(text.strip().encode()))


@dataclass(frozen=True)
class SplitPlan:
    """The rule that gives each document of a corpus its side."""

    fraction: float
    by_bytes: bool = False
    """True where hashes alone would not do, and the two fields below decide."""
    whole: frozenset[int] = frozenset()
    """Hashes of the documents that are held out."""
    cut: Mapping[int, int] = field(default_factory=dict)
    """By hash: the bytes that are held out off a document's end."""

    def parts(self, document: int, text: str) -> list[tuple[SplitName, str]]:
        """The text of the document with this hash, with its side; of a document that is cut, the
        training part and then the held-out part, which together are the text.
        """
        if not self.by_bytes:
            return [(split_of(document, self.fraction), text)]
        if document in self.cut:
            at = cut_index(text, self.cut[document])
            return [("train", text[:at]), ("validation", text[at:])]
        return [("validation" if document in self.whole else "train", text)]


def plan_split(documents: Iterable[DocumentSize], fraction: float) -> SplitPlan:
    """The plan for a corpus of `documents`, read no further than it takes.

    By the hash (`split_of`) where that leaves each side something and, in a corpus of less than
    `SMALL_BYTES`, holds out at most `MOST` times `fraction` of the bytes. Else the documents are
    held out in the order of their hashes until `fraction` of the bytes is, and the one that would
    bring them past `MOST` times that is cut. Raises DataError for a text too short to be cut.
    """
    if fraction == 0:
        return SplitPlan(0.0)
    sizes: list[DocumentSize] = []
    total = held = 0
    for document in documents:
        total += document.size
        if split_of(document.hash, fraction) == "validation":
            held += document.size
        if 0 < held < total and total >= SMALL_BYTES:
            return SplitPlan(fraction)
        sizes.append(document)
    if 0 < held < total and held <= MOST * fraction * total:
        return SplitPlan(fraction)
    return _by_bytes(sorted(sizes), total, fraction)


def _by_bytes(documents: list[DocumentSize], total: int, fraction: float) -> SplitPlan:
    goal, held = fraction * total, 0
    whole: set[int] = set()
    for document in documents:
        if held >= goal:
            break
        if held + document.size <= min(MOST * goal, total - 1):
            whole.add(document.hash)
            held += document.size
        elif document.dense >= _CUTTABLE_BYTES:
            wanted = max(1, round(goal - held))
            return SplitPlan(fraction, True, frozenset(whole), {document.hash: wanted})
    if not whole:
        raise DataError(
            f"the text has {total:,} bytes in {len(documents):,} documents, too few to hold a part"
            f" out for validation (a fraction of {fraction}); add text, or name a validation text"
            " of its own"
        )
    return SplitPlan(fraction, True, frozenset(whole))


def cut_index(text: str, wanted: int) -> int:
    """The index at which the last `wanted` bytes of a text begin, or up to half of them later: at
    a blank line, else a line, else a word. Both parts hold more than white space.
    """
    body = text.rstrip()
    tail = len(body.encode()[-wanted:].decode(errors="ignore"))
    index = len(body) - tail
    for mark in ("\n\n", "\r\n\r\n", "\n", " "):
        at = body.find(mark, max(0, index - len(mark)), index + tail // 2)
        if at >= 0:
            index = at + len(mark)
            break
    first = len(body) - len(body.lstrip())
    return min(max(index, first + 1), len(body) - 1)
