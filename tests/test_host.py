"""The machine, from made-up files of the kernel and beside what the system says."""

import os
from pathlib import Path

import pytest

from puna.host import allowed_processors, memory_bytes, physical_processors, processors


def test_allowed_processors_are_counted_as_logical_and_as_physical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allowed are both threads of one core and one of another, of a machine of eight."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert (allowed_processors(), processors()) == ({0, 4, 5}, 3)
    assert physical_processors(tmp_path) is None
    for number, siblings in ((0, "0,4"), (4, "0,4"), (5, "1,5"), (6, "2,6")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert physical_processors(tmp_path) == 2


def test_where_the_system_has_no_affinity_all_processors_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert (allowed_processors(), processors()) == ({0, 1, 2}, 3)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


def test_memory_is_physical(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(os, "sysconf", lambda name: {}[name])
    with pytest.raises(KeyError):
        memory_bytes()
    monkeypatch.delattr(os, "sysconf")
    assert memory_bytes() is None
