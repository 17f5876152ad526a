"""Links and labels of documents with equal keys."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import duplicates
from puna.corpus.duplicates import link, link_tasks, repeated, write_labels


def first_of_groups(keys: list[list[int]]) -> list[int]:
    """The obvious twin: the first document of each one's group, through any equal key of a row."""
    count = len(keys[0])
    labels = list(range(count))
    for _ in range(count):
        for row, a, b in itertools.product(keys, range(count), range(count)):
            if row[a] == row[b]:
                labels[a] = labels[b] = min(labels[a], labels[b])
    return labels


def labels_of(keys: list[list[int]], cuts: list[int], folder: Path) -> list[int]:
    """Those of the files, the documents cut into pieces."""
    count = len(keys[0])
    stacked = np.array([[0] * count, [0] * count, *keys], dtype=np.uint64)
    pieces = []
    for start, end in itertools.pairwise([0, *sorted(cuts), count]):
        pieces.append(folder / f"{len(pieces)}.keys.npy")
        np.save(pieces[-1], stacked[:, start:end])
    tasks = link_tasks(pieces, count, range(2, 2 + len(keys)), folder)
    for task in tasks:
        assert link(task) == count
    path = folder / "labels.npy"
    write_labels([task.record for task in tasks], count, path)
    assert repeated(path, 0, count).tolist() == [
        label != number for number, label in enumerate(np.load(path))
    ]
    labels: list[int] = np.load(path).tolist()
    return labels


@given(data=st.data(), count=st.integers(1, 12), rows=st.integers(1, 3))
def test_labels_are_those_of_the_twin(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int, rows: int
) -> None:
    key = st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**62, 5])
    keys = data.draw(
        st.lists(st.lists(key, min_size=count, max_size=count), min_size=rows, max_size=rows)
    )
    cuts = data.draw(st.lists(st.integers(0, count), max_size=2))
    folder = tmp_path_factory.mktemp("keys")
    assert labels_of(keys, cuts, folder) == first_of_groups(keys)


def test_ranges_of_keys_and_blocks_of_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain through alternating keys, in many ranges and blocks."""
    monkeypatch.setattr(duplicates, "_RANGE_DOCUMENTS", 64)
    monkeypatch.setattr(duplicates, "_LINKS_AT_ONCE", 50)
    generator = np.random.default_rng(0)
    spread = generator.integers(0, 2**64, size=500, dtype=np.uint64)
    order = generator.permutation(1000)
    even, odd = np.empty(1000, dtype=np.uint64), np.empty(1000, dtype=np.uint64)
    even[order] = np.repeat(spread, 2)
    odd[order] = np.roll(np.repeat(spread, 2), 1)
    assert labels_of([even.tolist(), odd.tolist()], [10, 500], tmp_path) == [0] * 1000


def test_equal_halves_alone_are_no_equal_text(tmp_path: Path) -> None:
    keys = np.array([[1, 1, 1], [5, 6, 5]], dtype=np.uint64)
    np.save(tmp_path / "a.npy", keys)
    (task,) = link_tasks([tmp_path / "a.npy"], 3, [0], tmp_path)
    link(task)
    assert np.load(task.record).tolist() == [[2, 0]]
