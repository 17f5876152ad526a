"""The native core's shared objects, one a tier, and the choice among them.

A tier is the code for one set of vector instructions. Where no compiler was found the package was
installed without them; `problem` says so, and everything runs on PyTorch. An object that is damaged
or of another version is passed over, so that the next tier does the work; `passed_over` says so.
"""

import ctypes
import struct
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from puna.errors import NativeError

Tier = Literal["scalar", "avx2", "avx512", "avx512_bf16", "amx", "neon"]
TIERS: tuple[Tier, ...] = get_args(Tier)  # slowest first, by processor family
Isa = Literal["auto", "torch", Tier]  # what a user can choose
VERSION = 4  # of the interface: puna_version of native/library.cpp


class Library:
    """The functions of one tier, by name: `library.function("norm")`.

    tier: its name. path: of the shared object.
    """

    def __init__(self, tier: str, path: Path, loaded: ctypes.CDLL) -> None:
        self.tier, self.path, self._loaded = tier, path, loaded

    def function(self, name: str) -> "ctypes._NamedFuncPointer":
        """The function puna_TIER_`name`, whose types of arguments the caller declares. A call gives
        up Python's lock. Raises NativeError where the object has none.
        """
        try:
            return self._loaded[f"puna_{self.tier}_{name}"]
        except AttributeError as error:
            raise NativeError(
                f"the native core {self.path} has no function puna_{self.tier}_{name}: install Puna"
                " again"
            ) from error

    @property
    def lanes(self) -> int:
        """Entries of a vector register, the rows of a panel of weights."""
        return int(self.function("lanes")())

    def new_pool(self, threads: int) -> int:
        """The address of a pool of threads, the caller's among them. Raises NativeError where the
        system gives none.
        """
        self._loaded.puna_pool_new.restype = ctypes.c_void_p
        pool = self._loaded.puna_pool_new(threads)
        if pool is None:
            raise NativeError(f"the system does not give {threads} threads: choose fewer --threads")
        return int(pool)

    def free_pool(self, pool: int) -> None:
        """End the threads of a pool; nothing may be running on it."""
        self._loaded.puna_pool_free(ctypes.c_void_p(pool))


def compiled_tiers() -> tuple[str, ...]:
    """The tiers that were compiled, slowest first."""
    return tuple(tier for tier in TIERS if _path(tier).exists())


def available_tiers() -> tuple[str, ...]:
    """The compiled tiers that load and that this processor runs, slowest first."""
    return tuple(tier for tier in compiled_tiers() if _runs(tier))


def passed_over() -> tuple[str, ...]:
    """The reasons why compiled tiers cannot be loaded, whatever the processor runs, each with the
    remedy; slowest tier first.
    """
    return tuple(str(error) for tier in compiled_tiers() if (error := _failure(tier)))


def problem() -> str | None:
    """The reason why the native core cannot be used, with the remedy; None where it can."""
    try:
        load()
    except NativeError as error:
        return str(error)
    return None


def load(tier: str | None = None) -> Library:
    """The functions of a tier; the fastest that this processor runs where none is named.

    Raises NativeError for a tier that is not known, not compiled or not run here, or whose object
    is damaged or of another version; where none is named, only if there is no tier left.
    """
    if tier is not None and tier not in TIERS:
        raise NativeError(f"there is no tier {tier!r}: say {', '.join(TIERS[:-1])} or {TIERS[-1]}")
    if not compiled_tiers():
        raise NativeError(
            "the native core was not built when Puna was installed: install a C++ compiler and"
            " install Puna again; until then PyTorch does its work"
        )
    if tier is not None and _path(tier).exists():
        _loaded(_path(tier))
    runnable = available_tiers()
    if not runnable:
        for failed in filter(None, map(_failure, reversed(compiled_tiers()))):
            raise failed
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


def _runs(tier: str) -> bool:
    return _failure(tier) is None and bool(_loaded(_path(tier)).puna_runs(tier.encode()))


def _failure(tier: str) -> NativeError | None:
    """The error of loading a compiled tier, None where it loads."""
    try:
        _loaded(_path(tier))
    except NativeError as error:
        return error
    return None


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    try:
        _reject_cut_off(path)
        loaded = ctypes.CDLL(str(path))
        version = int(loaded.puna_version())
        loaded.puna_runs.argtypes = [ctypes.c_char_p]
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


def _reject_cut_off(path: Path) -> None:
    """Raise OSError for an ELF file of 64 bits that ends before its own tables say: the loader maps
    such a file, and the process ends by SIGBUS at the first page that is not there.

    Source: System V ABI, chapter 4: e_shoff, e_shentsize and e_shnum of the header, whose table
    linkers put last.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian; the loader judges others
        return
    if len(header) < 64:
        raise OSError(f"{size} bytes are less than its header")
    (table,) = struct.unpack_from("<Q", header, 40)
    entry, entries = struct.unpack_from("<HH", header, 58)
    if table + entry * entries > size:
        raise OSError(f"{size} bytes of {table + entry * entries}: it is cut off")
