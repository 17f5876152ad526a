"""Limits of the device, measured: matrix products in three formats, and reading of memory.

Each repeats its work for about `SECONDS`; on a slow machine it is done once. A measured limit
is that of the moment; other programs lower it.
"""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch

from puna.device import (
    Precision,
    has_bfloat16_arithmetic,
    measure_matmul_peak,
    synchronise,
    watch_others,
)

SECONDS = 0.5
"""Of repeating one measurement; one that takes longer is made once."""

LEAST_READ, MOST_READ = 2**28, 2**30
"""Bytes of the buffer that is read: far more than a cache holds, less than a machine has."""

_INT8_PROBE = 256
_INT8_SIZE, _INT8_SIZE_OF_ACCELERATORS = 1024, 8192


@dataclass(frozen=True)
class Measurement:
    """One limit."""

    name: str
    unit: str
    """FLOP/s, op/s (a multiplication and an addition are two) or B/s."""

    value: float | None
    note: str | None
    """Of the way it was measured, or the reason why there is no value."""

    others: float | None
    """Cores that other programs took meanwhile, on average; None where that is not known."""


class _Found(NamedTuple):
    value: float | None
    note: str | None = None


LIMITS = ("matmul float32", "matmul bfloat16", "matmul int8", "reading")
"""Names of the limits, in the order of measuring."""


def measure_limits(
    device: torch.device, cache: int, room: int | None, names: Collection[str] = LIMITS
) -> tuple[Measurement, ...]:
    """Measure the device. cache: bytes of its largest cache; 0 where it is not known. room: bytes
    of its free memory, of which an eighth is used at most; None where they are not known. names:
    the limits to measure.
    """
    found: dict[str, Measurement] = {}

    def float32() -> float | None:
        before = found.get("matmul float32")
        return before.value if before else None

    kinds: dict[str, tuple[str, Callable[[], _Found]]] = {
        "matmul float32": ("FLOP/s", lambda: _matmul(device, "float32")),
        "matmul bfloat16": ("FLOP/s", lambda: _matmul(device, "bfloat16")),
        "matmul int8": ("op/s", lambda: _int8_matmul(device, float32())),
        "reading": ("B/s", lambda: _reading(device, cache, room)),
    }
    for name in LIMITS:
        if name in names:
            found[name] = _measured(name, *kinds[name])
    return tuple(found.values())


def _measured(name: str, unit: str, measure: Callable[[], _Found]) -> Measurement:
    others = watch_others()
    try:
        value, note = measure()
    except RuntimeError as error:  # also of too little memory, and of a product that is not there
        value, note = None, str(error).partition("\n")[0][:200]
    return Measurement(name, unit, value, note, others())


def _matmul(device: torch.device, precision: Precision) -> _Found:
    if precision == "bfloat16" and not has_bfloat16_arithmetic(device):
        return _Found(None, "no hardware for it: it would be emulated")
    begin = time.perf_counter()
    peak = measure_matmul_peak(device, precision, windows=1)
    if device.type != "cpu" or time.perf_counter() - begin < SECONDS:  # an accelerator warmed up
        peak = max(peak, measure_matmul_peak(device, precision, windows=4))
    return _Found(peak)


def _int8_matmul(device: torch.device, float32: float | None) -> _Found:
    """PyTorch's own product of int8 matrices, with sums in int32; not the one of the native core.

    Without oneDNN or a GPU it is a plain loop, which a small product shows in milliseconds.
    """

    def best(size: int) -> float:
        a, b = (
            torch.randint(-128, 128, (size, size), dtype=torch.int8, device=device)
            for _ in range(2)
        )
        return 2 * size**3 / _best_seconds(lambda: torch._int_mm(a, b), device)

    size = _INT8_SIZE if device.type == "cpu" else _INT8_SIZE_OF_ACCELERATORS
    rate = best(_INT8_PROBE)
    if device.type != "cpu" or 2 * size**3 / rate < SECONDS:
        rate = max(rate, best(size))
    if float32 is not None and rate < float32:
        return _Found(None, "PyTorch's is slower than its float32 product")
    return _Found(rate, "PyTorch's own")


def _reading(device: torch.device, cache: int, room: int | None) -> _Found:
    """The sum of a float32 buffer that no cache holds, over all threads."""
    least = LEAST_READ if device.type == "cpu" else MOST_READ
    size = min(max(least, 4 * cache), MOST_READ)
    if room is not None:
        size = min(size, room // 8)
    if size < max(2 * cache, 2**20):
        return _Found(None, "too little free memory for a buffer that no cache holds")
    numbers = torch.ones(size // 4, device=device)  # written, so every page is there
    return _Found(size / _best_seconds(numbers.sum, device), f"sum of {size / 2**20:,.0f} MiB")


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest time of one of several calls; the first on an accelerator, which loads its
    library, is not counted.
    """
    if device.type != "cpu":
        work()
        synchronise(device)
    best, began = math.inf, time.perf_counter()
    end = began
    while end - began < SECONDS:
        begin = time.perf_counter()
        work()
        synchronise(device)
        end = time.perf_counter()
        best = min(best, end - begin)
    return best
