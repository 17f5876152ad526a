"""Documents that others repeat, found from their keys on disk: equal texts, and those that share a
band of their MinHash signatures.

Documents are numbered through all pieces in order. Of each group the first is kept: of equal texts
the first of all, of near-duplicates the first of all that are connected, so that of A like B and B
like C only A is.

    keys --band by band--> links (document, first document with the same key)
         --connected--> labels [documents]: the first document of each one's group

Memory does not grow with the corpus: keys are mapped and sorted a range at a time, links and labels
are files. Cost: the keys of each band are read once for every `_RANGE_DOCUMENTS` documents; labels
take a few passes over the links.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna import durable
from puna.corpus.pieces import Keys, open_keys

_RANGE_DOCUMENTS = 2**22  # sorted at once, with keys and numbers 64 MiB
_LINKS_AT_ONCE = 2**20

Numbers = npt.NDArray[np.int64]


class LinkTask(NamedTuple):
    """One band's keys in one of several equal ranges of the 64-bit numbers."""

    pieces: Path
    """A file with the names of the files of keys, a line each, in the order of the documents: one
    file for all tasks, of which there may be many.
    """
    row: int
    """Of the keys: 0 for the texts' hashes, from 2 on the bands."""
    part: int
    parts: int
    record: Path
    """The file of links to write: int64 [links, 2]."""
    size: int
    """Documents whose keys are looked at."""


def link_tasks(
    pieces: Sequence[Path], documents: int, rows: Sequence[int], folder: Path
) -> list[LinkTask]:
    """The work for `documents` documents whose keys stand in `pieces`; links go to `folder`."""
    names = folder / "keys.txt"
    durable.write_text(names, "".join(f"{piece}\n" for piece in pieces))
    parts = max(1, -(-documents // _RANGE_DOCUMENTS))
    return [
        LinkTask(names, row, part, parts, folder / f"links-{row:03d}-{part:05d}.npy", documents)
        for row in rows
        for part in range(parts)
    ]


def link(task: LinkTask) -> int:
    """Find the documents of equal keys, and write their links. Returns the task's size."""
    keys, numbers = _in_range(task)
    order = np.lexsort((numbers, *keys[::-1]))
    keys, numbers = keys[:, order], numbers[order]
    if numbers.size:
        opens = np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)])
        first = numbers[np.maximum.accumulate(np.where(opens, np.arange(len(opens)), 0))]
        links = np.stack([numbers[~opens], first[~opens]], axis=1)
    else:
        links = np.empty((0, 2), dtype=np.int64)
    with durable.new_file(task.record) as aside, aside.open("wb") as file:
        np.save(file, links)
    return task.size


def _in_range(task: LinkTask) -> tuple[Keys, Numbers]:
    """The keys [1 or 2, N] of the task's row whose first half lies in its part, and the numbers [N]
    of their documents.
    """
    step = 2**64 // task.parts
    low = np.uint64(task.part * step)
    high = np.uint64((task.part + 1) * step - 1 if task.part + 1 < task.parts else 2**64 - 1)
    found: list[Keys] = []
    numbers: list[Numbers] = []
    start = 0
    for name in task.pieces.read_text(encoding="utf-8").splitlines():
        keys = open_keys(Path(name))
        row = np.asarray(keys[task.row])
        at = np.flatnonzero((row >= low) & (row <= high))
        # the texts' hashes have two halves, bands one
        rows = keys[:2] if task.row == 0 else keys[task.row : task.row + 1]
        found.append(np.asarray(rows[:, at]))
        numbers.append(at + start)
        start += keys.shape[1]
    return np.concatenate(found, axis=1), np.concatenate(numbers)


def write_labels(links: Sequence[Path], documents: int, path: Path) -> None:
    """Write the first document of each one's group: int64 [documents], through the links.

    Each round gives both ends of a link, and the documents that they are labelled with, the least
    of the two labels, until a round changes nothing: hooking and shortcutting as of Shiloach and
    Vishkin, An O(log n) parallel connectivity algorithm (1982).
    """
    with durable.new_file(path) as aside:
        labels: Numbers = np.lib.format.open_memmap(
            aside, mode="w+", dtype=np.int64, shape=(documents,)
        )
        for start in range(0, documents, _LINKS_AT_ONCE):
            end = min(start + _LINKS_AT_ONCE, documents)
            labels[start:end] = np.arange(start, end)
        changes = True
        while changes:
            changes = False
            for ends in _read_links(links):
                changes |= _hook(labels, ends)
        labels.flush()  # type: ignore[attr-defined]
        del labels


def _hook(labels: Numbers, ends: Numbers) -> bool:
    """Lower the labels of one block of links; True where one changed."""
    before = labels[ends]
    low = before.min(axis=1)
    if (before == low[:, None]).all() and (labels[low] == low).all():
        return False
    low = labels[low]
    for places in (before[:, 0], before[:, 1], ends[:, 0], ends[:, 1]):
        np.minimum.at(labels, places, low)
    return True


def _read_links(files: Sequence[Path]) -> Iterator[Numbers]:
    for file in files:
        links = np.load(file, mmap_mode="r")
        for start, end in itertools.pairwise([*range(0, len(links), _LINKS_AT_ONCE), len(links)]):
            yield np.asarray(links[start:end])


def repeated(labels: Path, start: int, count: int) -> npt.NDArray[np.bool_]:
    """True for each of `count` documents from number `start` on that is not the first of its
    group.
    """
    stored = np.load(labels, mmap_mode="r")
    others: npt.NDArray[np.bool_] = stored[start : start + count] != np.arange(start, start + count)
    return others
