"""The native core's shared objects, one a tier, and the choice among them.

A tier is the code for one set of vector instructions. Where no compiler was found the package was
installed without them; `problem` says so, and everything runs on PyTorch.
"""

import ctypes
from functools import cache
from pathlib import Path

from puna.errors import NativeError

TIERS = ("scalar", "avx2", "avx512", "avx512_bf16", "neon")  # slowest first, by processor family
VERSION = 1  # of the interface: puna_version of native/library.cpp


class Library:
    """The functions of one tier, by name: `library.function("norm")`.

    tier: its name. path: of the shared object.
    """

    def __init__(self, tier: str, path: Path, loaded: ctypes.CDLL) -> None:
        self.tier, self.path, self._loaded = tier, path, loaded

    def function(self, name: str) -> "ctypes._NamedFuncPointer":
        """The function puna_TIER_`name`, whose types of arguments the caller declares. A call gives
        up Python's lock.
        """
        return self._loaded[f"puna_{self.tier}_{name}"]


def compiled_tiers() -> tuple[str, ...]:
    """The tiers that were compiled, slowest first."""
    return tuple(tier for tier in TIERS if _path(tier).exists())


def available_tiers() -> tuple[str, ...]:
    """The compiled tiers that this processor runs, slowest first; none without the core."""
    return () if problem() else _runnable()


def problem() -> str | None:
    """The reason why the native core cannot be used, with the remedy; None where it can."""
    try:
        load()
    except NativeError as error:
        return str(error)
    return None


def load(tier: str | None = None) -> Library:
    """The functions of a tier; the fastest that this processor runs where none is named.

    Raises NativeError for a tier that is not known, not compiled or not run here, and for an object
    of another version.
    """
    if tier is not None and tier not in TIERS:
        raise NativeError(f"there is no tier {tier!r}: say {', '.join(TIERS[:-1])} or {TIERS[-1]}")
    if not compiled_tiers():
        raise NativeError(
            "the native core was not built when Puna was installed: install a C++ compiler and"
            " install Puna again; until then PyTorch does its work"
        )
    runnable = _runnable()
    if not runnable:
        raise NativeError(
            f"this processor runs none of the tiers that are built, {', '.join(compiled_tiers())}:"
            " install Puna on it again; until then PyTorch does its work"
        )
    chosen = runnable[-1] if tier is None else tier
    if chosen not in runnable:
        reason = "this processor does not run it" if _path(chosen).exists() else "it is not built"
        raise NativeError(
            f"the tier {chosen} cannot be used: {reason}; say {' or '.join(runnable)}"
        )
    return Library(chosen, _path(chosen), _loaded(_path(chosen)))


def _path(tier: str) -> Path:
    return Path(__file__).with_name(f"puna_{tier}.so")


def _runnable() -> tuple[str, ...]:
    return tuple(tier for tier in compiled_tiers() if _loaded(_path(tier)).puna_runs(tier.encode()))


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
        version = int(loaded.puna_version())
    except (OSError, AttributeError) as error:
        raise NativeError(
            f"the native core {path} cannot be loaded ({error}): install Puna again"
        ) from error
    if version != VERSION:
        raise NativeError(
            f"the native core {path} has version {version} of its interface, not {VERSION}: install"
            " Puna again"
        )
    return loaded
