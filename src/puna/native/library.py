"""The native core's shared object: where it is, the tiers in it, and the choice of one.

A tier is the code for one set of vector instructions. This version has no code of its own:
everything runs on PyTorch, and `problem` says so.
"""

from pathlib import Path

from puna.errors import NativeError

TIERS: tuple[str, ...] = ("scalar", "avx2", "avx512", "avx512_bf16", "neon")
"""Slowest first, by processor family."""


class Library:
    """The functions of one tier. tier: its name. path: of the shared object."""

    def __init__(self, tier: str, path: Path) -> None:
        self.tier, self.path = tier, path


def compiled_tiers() -> tuple[str, ...]:
    """The tiers that were compiled, slowest first."""
    return ()


def available_tiers() -> tuple[str, ...]:
    """The compiled tiers that this processor runs, slowest first; none without the core."""
    return ()


def problem() -> str | None:
    """The reason why the native core cannot be used, with the remedy; None where it can."""
    return "the native core is not built in this version: PyTorch does its work"


def load(tier: str | None = None) -> Library:
    """The functions of a tier; the fastest that this processor runs where none is named.

    Raises NativeError for a tier that is not known, and where there is no core.
    """
    if tier is not None and tier not in TIERS:
        raise NativeError(f"there is no tier {tier!r}: say {', '.join(TIERS[:-1])} or {TIERS[-1]}")
    raise NativeError(f"{tier or 'the fastest tier'} cannot be used: {problem()}")
