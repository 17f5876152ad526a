"""The report of what a reader of sources left out, and how much of it may be bad.

Bad is what should have been text and is not: damaged files and rows, and what is not UTF-8. It is
passed over, counted and named, up to a share of each source. Copies, empty documents, binary files,
links and the splits that measure are left out on purpose, and are only counted and named.

What it is not: it decides nothing about a file (`file_formats.py` and `folder_walk.py` do).
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from puna.errors import DataError

LeftOutKind = Literal[
    "duplicates", "empty", "not_utf8", "binary", "damaged", "links", "other_splits", "own_files"
]

KINDS: Mapping[LeftOutKind, str] = MappingProxyType(
    {
        "duplicates": "copies",
        "empty": "empty",
        "not_utf8": "not UTF-8",
        "binary": "binary",
        "damaged": "damaged",
        "links": "links not followed",
        "other_splits": "files beside the split train",
        "own_files": "folders that Puna wrote",
    }
)
"""The words that a report has for each kind; the first three are shown even where they are 0."""

_SHOWN_AT_ZERO = ("duplicates", "empty", "not_utf8")
_BAD: tuple[LeftOutKind, ...] = ("damaged", "not_utf8")

NAMED = 10
"""So many of each kind are named, and so many bad ones are allowed whatever their share."""

BAD_SHARE = 0.1


def printable(path: Path | str) -> str:
    r"""A path as text that any terminal and JSON take: bytes that are not UTF-8 become `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class LeftOut:
    """Counts and first names of what was left out, while a stream of documents is read.

    strict: raise DataError at the first bad file or row. bad_share: of the files and rows of a
    source, the share that may be bad; ten always may.
    """

    def __init__(self, *, strict: bool = False, bad_share: float = BAD_SHARE) -> None:
        if not 0 <= bad_share <= 1:
            raise DataError(f"the share of bad files and rows is {bad_share}: name one of 0 to 1")
        self.strict, self.bad_share = strict, bad_share
        self.counts: Counter[LeftOutKind] = Counter(dict.fromkeys(KINDS, 0))
        self.examples: dict[LeftOutKind, list[str]] = {}
        self._before = 0  # bad ones of the sources before
        self._first: list[str] = []  # bad ones of this source

    @property
    def bad(self) -> int:
        """Files and rows that should have been text."""
        return sum(self.counts[kind] for kind in _BAD)

    def wants_name(self, kind: LeftOutKind) -> bool:
        """Fewer than ten of the kind are named so far: a costly description is worth making."""
        return len(self.examples.get(kind, ())) < NAMED

    def add(self, kind: LeftOutKind, name: str) -> None:
        """Count one, and remember the name of each of the first ten. Raises DataError for a bad one
        where `strict`.
        """
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < NAMED and name not in examples:
            examples.append(name)
        if kind in _BAD:
            if self.strict:
                raise DataError(
                    f"{name}: {KINDS[kind]}, and strict reading stops at the first; mend it, leave"
                    " it out, or read without --strict"
                )
            if len(self._first) < NAMED:
                self._first.append(f"{name} is {KINDS[kind]}" if kind == "not_utf8" else name)

    def include(
        self, counts: Mapping[LeftOutKind, int], examples: Mapping[LeftOutKind, Sequence[str]]
    ) -> None:
        """Add what another process counted and named in the same source."""
        for kind, names in examples.items():
            ours = self.examples.setdefault(kind, [])
            ours += [name for name in names if name not in ours][: NAMED - len(ours)]
            if kind in _BAD:
                self._first += names[: NAMED - len(self._first)]
        self.counts.update(counts)

    def finish_source(self, name: str, documents: int, files: int) -> None:
        """Judge a source that was read to its end. Raises DataError where it held no text, or more
        bad files and rows than are allowed.
        """
        bad, first = self.bad - self._before, "; ".join(self._first)
        self._before, self._first = self.bad, []
        if not documents:
            raise DataError(
                f"the source {name} gives no text"
                + (f": {first}; mend that or" if first else f" in its {files} files;")
                + " leave it out"
            )
        if bad > max(NAMED, self.bad_share * (bad + documents)):
            raise DataError(
                f"{bad:,} of {bad + documents:,} files and rows of the source {name} are bad, more"
                f" than the share of {self.bad_share:g} that is passed over: {first}; mend them,"
                " leave them out with --exclude, or allow more with --bad-share"
            )

    def lines(self) -> list[str]:
        """The report, a line for the counts and one for each kind with names."""
        return report_lines(self.counts, self.examples)


class FileReport(NamedTuple):
    """The report of one file: what is left out of it is named after it."""

    left_out: LeftOut
    name: str

    def add(self, kind: LeftOutKind, detail: str = "") -> None:
        """Count one. detail: the line or row, and what is wrong with it."""
        self.left_out.add(kind, f"{self.name} {detail}".rstrip())

    def wants_name(self, kind: LeftOutKind) -> bool:
        """`LeftOut.wants_name`."""
        return self.left_out.wants_name(kind)


def report_lines(
    counts: Mapping[LeftOutKind, int], examples: Mapping[LeftOutKind, Sequence[str]]
) -> list[str]:
    """A line of all counts, then for each kind the first names and the number of the others. Empty
    documents are not named.
    """
    shown = [kind for kind in KINDS if counts[kind] or kind in _SHOWN_AT_ZERO]
    lines = ["left out: " + ", ".join(f"{counts[kind]:,} {KINDS[kind]}" for kind in shown)]
    for kind in shown:
        names = examples.get(kind, ())
        if names and kind != "empty":
            more = counts[kind] - len(names)
            rest = [f"and {more:,} more"] if more > 0 else []
            lines.append(f"  {KINDS[kind]}: " + "; ".join([*names, *rest]))
    return lines
