"""The machine that this process runs on, without torch."""

import os
import sys
from pathlib import Path


def allowed_processors() -> set[int]:
    """The numbers of the logical processors that this process may run on, which on a shared machine
    are fewer than it has.
    """
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def processors() -> int:
    """Logical processors that this process may run on."""
    return len(allowed_processors())


def physical_processors(root: Path = Path("/")) -> int | None:
    """Physical cores that those of `processors` lie on; None where the kernel has no files of it
    below `root`, the file system's, as off Linux.

    Source: the kernel's Documentation/ABI/stable/sysfs-devices-system-cpu.
    """
    siblings = set()
    for number in allowed_processors():
        file = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        try:
            siblings.add(file.read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return len(siblings) or None


def memory_bytes() -> int | None:
    """Physical memory; None where it cannot be told."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def may_have_accelerator() -> bool:
    """False where there is surely none: on Linux its driver has a device file."""
    drivers = ("nvidiactl", "kfd", "dri/renderD128", "dxg", "accel")
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in drivers)
