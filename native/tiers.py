"""How each tier of the native core is compiled: for setup.py and for the core's own tests.

Warnings are shown and stop no install, since a newer compiler has new ones; the tests add -Werror.
"""

import platform

SOURCES = ("tier.cpp", "inference.cpp", "threads.cpp", "pool.cpp", "library.cpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-g0",
    "-Wall",
    "-Wextra",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fvisibility=hidden",
)
_AVX512 = (
    "-mfma",
    *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni")),
    "-mprefer-vector-width=512",
    # GCC 12 warns of the undefined registers in its own header (its bug 105593); Clang has one of
    # these names only, and GCC passes over the name of that complaint
    "-Wno-unknown-warning-option",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
)
# by tier, slowest first: its flags; the scalar one does each operation as it is written
_X86 = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": _AVX512,
    "avx512_bf16": (*_AVX512, "-mavx512bf16"),
    "amx": (
        "-DPUNA_AMX",
        *(f"-mamx-{part}" for part in ("tile", "int8", "bf16")),
        *_AVX512,
        "-mavx512bf16",
    ),
}
_ARM: dict[str, tuple[str, ...]] = {"neon": ()}
_FAMILIES = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}


def tiers(machine: str | None = None) -> dict[str, list[str]]:
    """The tiers of a family of processors (this one's, where none is named), slowest first, each
    with all its flags.
    """
    own = _FAMILIES.get(platform.machine() if machine is None else machine, {})
    chosen = {"scalar": ("-DPUNA_SCALAR", "-ffp-contract=off"), **own}
    return {tier: [*FLAGS, f"-DPUNA_TIER={tier}", *flags] for tier, flags in chosen.items()}
