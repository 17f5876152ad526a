"""The processor as this process sees it: cores, caches, vector instructions; and the memory.

Sources: /sys/devices/system/cpu (the kernel's Documentation/ABI/stable/sysfs-devices-system-cpu)
and /proc/meminfo (proc(5)), both Linux alone; instructions as PyTorch finds them, everywhere.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from puna.device import memory_bytes, processor_name
from puna.diagnosis.kernel_file import read_kernel_file
from puna.host import allowed_processors, physical_processors

INSTRUCTIONS = ("fma", "f16c", "avx", "amx_", "arm_")
"""Beginnings of the names of `torch.cpu.get_capabilities` that matter for arithmetic."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Cache:
    """One cache that the first core of this process uses."""

    name: str
    """L1d, L2, L3; caches of instructions alone are left out."""

    size: int
    """Bytes."""

    cores: int
    """Logical cores that share it."""


@dataclass(frozen=True)
class Processor:
    """Name, cores, instructions and caches."""

    name: str
    logical_cores: int
    """Of the machine."""

    allowed_cores: int
    """Those of them that this process may run on."""

    physical_cores: int | None
    """Those that the allowed ones lie on; None off Linux."""

    instructions: tuple[str, ...]
    caches: tuple[Cache, ...]
    """By level; none off Linux."""

    @property
    def last_cache(self) -> int:
        """Bytes of the largest cache; 0 where none is known."""
        return max((cache.size for cache in self.caches), default=0)


@dataclass(frozen=True)
class HostMemory:
    """Bytes of the machine's memory; None where the system does not say."""

    total: int | None
    available: int | None
    """Without swapping."""


def find_processor(root: Path = Path("/")) -> Processor:
    """The processor, with what the kernel says of it below `root`, the file system's."""
    allowed = allowed_processors()
    found = torch.cpu.get_capabilities()
    return Processor(
        name=processor_name(),
        logical_cores=os.cpu_count() or len(allowed),
        allowed_cores=len(allowed),
        physical_cores=physical_processors(root),
        instructions=tuple(
            sorted(name for name, has in found.items() if has and name.startswith(INSTRUCTIONS))
        ),
        caches=_caches(root / f"sys/devices/system/cpu/cpu{min(allowed)}/cache"),
    )


def find_memory(root: Path = Path("/")) -> HostMemory:
    """Memory, by /proc/meminfo below `root` where there is one."""
    kilobytes = {
        line.partition(":")[0]: line.partition(":")[2].removesuffix("kB").strip()
        for line in read_kernel_file(root / "proc/meminfo").splitlines()
    }
    total, available = (
        int(text) * 1024 if (text := kilobytes.get(name, "")).isdecimal() else None
        for name in ("MemTotal", "MemAvailable")
    )
    return HostMemory(total or memory_bytes(torch.device("cpu")), available)


def _caches(folder: Path) -> tuple[Cache, ...]:
    found = []
    for index in sorted(folder.glob("index*")):
        level, kind, size, sharing = (
            read_kernel_file(index / name) for name in ("level", "type", "size", "shared_cpu_list")
        )
        number, unit = size[:-1], _UNITS.get(size[-1:])
        if kind != "Instruction" and number.isdecimal() and unit:
            name = f"L{level}{'d' if kind == 'Data' else ''}"
            found.append(Cache(name, int(number) * unit, _count(sharing)))
    return tuple(found)


def _count(cores: str) -> int:
    """The cores of a list such as 0-3,8-11; one at least."""
    count = 0
    for part in cores.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            count += (int(last) if last.isdecimal() else int(first)) - int(first) + 1
    return max(1, count)
