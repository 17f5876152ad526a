"""Cores, caches and memory, from made-up files of the kernel and beside what the system says."""

import os
from pathlib import Path

import pytest
import torch

from puna.diagnosis.processor import Cache, HostMemory, find_memory, find_processor


def write_core(root: Path, core: int, siblings: str) -> None:
    folder = root / f"sys/devices/system/cpu/cpu{core}"
    (folder / "topology").mkdir(parents=True)
    (folder / "topology/thread_siblings_list").write_text(siblings + "\n")
    caches = {
        "index0": ("1", "Data", "48K", siblings),
        "index1": ("1", "Instruction", "32K", siblings),
        "index2": ("2", "Unified", "2M", siblings),
        "index3": ("3", "Unified", "107520K", "0-27,56-83"),
        "index4": ("4", "Unified", "much", "0"),
    }
    for index, values in caches.items():
        (folder / "cache" / index).mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            (folder / "cache" / index / name).write_text(value + "\n")


def test_allowed_cores_are_counted_as_logical_and_as_physical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allowed are both threads of one core and one of another, of a machine of eight."""
    for core, siblings in ((0, "0,4"), (4, "0,4"), (5, "1,5"), (6, "2,6")):
        write_core(tmp_path, core, siblings)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = find_processor(tmp_path)
    assert (found.logical_cores, found.allowed_cores, found.physical_cores) == (8, 3, 2)
    assert found.caches == (
        Cache("L1d", 48 * 1024, 2),
        Cache("L2", 2 * 2**20, 2),
        Cache("L3", 107520 * 1024, 56),
    )
    assert found.last_cache == 105 * 2**20


def test_without_files_of_the_kernel_the_rest_is_known(tmp_path: Path) -> None:
    found = find_processor(tmp_path)
    assert (found.physical_cores, found.caches, found.last_cache) == (None, (), 0)
    assert 1 <= found.allowed_cores <= found.logical_cores
    memory = find_memory(tmp_path)
    assert memory.available is None
    assert memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_instructions_are_those_that_pytorch_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"avx2": True, "fma3": True, "avx512_f": False, "sse2": True, "cpu_name": "Made up"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert find_processor().instructions == ("avx2", "fma3")
    found = {"arm_bf16": True, "arm_sve": True, "arm_neon": True, "l1d_cache_size": 65536}
    assert find_processor().instructions == ("arm_bf16", "arm_neon", "arm_sve")


def test_memory_is_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    text = (
        "MemTotal:       24684096 kB\nMemFree:  1 kB\nMemAvailable:   21957224 kB\nHugePages: 0\n"
    )
    (tmp_path / "proc/meminfo").write_text(text)
    assert find_memory(tmp_path) == HostMemory(24684096 * 1024, 21957224 * 1024)


def test_memory_is_that_of_psutil() -> None:
    psutil = pytest.importorskip("psutil")
    assert find_memory().total == psutil.virtual_memory().total
