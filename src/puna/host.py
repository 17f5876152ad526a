"""The machine that this process runs on, without torch."""

import os
import sys
from pathlib import Path


def processors() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
