"""The machine: device, number format, matmul peak, memory, load."""

import ctypes
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

from puna import host
from puna.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU. Raises
    ConfigError for one that is not there.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"the device {name!r} cannot be used here: {reason}; try auto or cpu"
        ) from error
    return device


def has_bfloat16_arithmetic(device: torch.device) -> bool:
    """True where bfloat16 products run in hardware (AVX512-BF16, AMX, Arm BF16, Ampere and later)
    rather than by slow emulation.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))
    return False


def choose_precision(
    name: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> Precision:
    """The number format of the matrix products; "auto" asks the hardware."""
    if name == "auto":
        return "bfloat16" if has_bfloat16_arithmetic(device) else "float32"
    return name


def autocast(
    device: torch.device, precision: Precision
) -> Callable[[], AbstractContextManager[object]]:
    """A maker of contexts in which matrix products run in `precision`; weights and sums stay
    float32.
    """
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def is_emulated(device: torch.device, precision: Precision) -> bool:
    """True for bfloat16 where no hardware multiplies it: it is then no faster than float32, and
    often many times slower.
    """
    return precision == "bfloat16" and not has_bfloat16_arithmetic(device)


def measure_matmul_peak(
    device: torch.device, precision: Precision, windows: int = 5, seconds: float = 0.1
) -> float:
    """FLOP/s of the best of several square matrix products in this format: the denominator of MFU
    here. A format that is emulated is measured as float32, which is what the hardware can do.

    2048 wide on a CPU, 8192 on an accelerator; in `windows` of so many seconds (and at least one
    product) with as long a pause before each, because other programs slow one window more than
    another. A vendor's peak is never reached; a measured one says what the machine gives today.
    """
    size = 2048 if device.type == "cpu" else 8192
    dtype = torch.float32 if is_emulated(device, precision) else getattr(torch, precision)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(windows):
        time.sleep(seconds)
        end = time.perf_counter()
        start = end
        while end - start < seconds:
            begin = time.perf_counter()
            a @ b
            synchronise(device)
            end = time.perf_counter()
            best = min(best, end - begin)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def memory_bytes(device: torch.device) -> int | None:
    """Memory that a run can hope for: free on a CUDA device, physical on the host; None where it
    cannot be told.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return host.memory_bytes()


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees, for its next allocation; False with another library.

    By itself it maps every block of 32 MiB or more anew and gives freed memory back, so that a
    training step finds its activations' pages missing each time: 130,000 faults a step of 33.7M
    parameters in bfloat16, 4% of its processor time, against one. For a process whose steps need
    the same memory again; one that serves should give it back.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    map_blocks, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    return bool(set_option(map_blocks, 0)) and bool(set_option(trim_threshold, 2**31 - 1))


def processor_name() -> str:
    """The name that the CPU gives."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def watch_others() -> Callable[[], float | None]:
    """Begin to watch; the function that comes back says how many cores other programs have taken
    since, on average. None off Linux.

    Only processes that this one started and that have ended count as its own.
    """
    begin = _busy_seconds()

    def others() -> float | None:
        wall, everyone, us = (
            after - before for after, before in zip(_busy_seconds(), begin, strict=True)
        )
        return None if everyone == 0 else round((everyone - us) / wall, 2)

    return others


def _busy_seconds() -> tuple[float, float, float]:
    """Of the clock, of all programs on all cores since the machine started (0 off Linux), of this
    program and its ended children.
    """
    try:
        user, nice, system, _, _, irq, softirq = map(
            int, Path("/proc/stat").read_text(encoding="utf-8").split()[1:8]
        )
        everyone = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    except OSError:
        everyone = 0.0
    return time.perf_counter(), everyone, sum(os.times()[:4])
