"""The native core's own tests: `make test-native`, and `make test-native-arm` with an emulator.

The programs of OBJECTS hold each tier's object against the scalar one, the oracle; those of HEADERS
are compiled for each tier with the headers that they test, and those of ALONE once. Every tier is
compiled as an install compiles it, with warnings as errors, into a folder that is removed
afterwards; tiers that this processor does not run are compiled alone. `python native/tests/run.py
avx2 --sanitize thread` runs that one with that instrument, `--program sweep` that program alone.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parent
sys.path.insert(0, str(CORE))
from tiers import SOURCES, tiers  # noqa: E402

UNSUPPORTED = 77  # exit code: this processor does not run the tier
OBJECTS = ("sweep", "sweep_linear")
HEADERS = ("sweep_paged_attention", "sweep_step")
ALONE = ("sweep_pool",)
PROGRAMS = (*OBJECTS, *HEADERS, *ALONE)
# by machine: the compiler and emulator for it on another one, its libraries, and Debian's packages
CROSS = {
    "aarch64": (
        "aarch64-linux-gnu-g++",
        ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
        "g++-aarch64-linux-gnu and qemu-user",
    )
}
SANITIZERS = {
    # -O1 keeps the loops as they are written; what cannot be mended ends the program
    "address,undefined": ["-O1", "-g", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g"],
}


def compile_tier(compiler: str, flags: list[str], out: Path) -> None:
    """Compile and link the shared object of one tier."""
    sources = [str(CORE / name) for name in SOURCES]
    run([compiler, *flags, "-Werror", "-fPIC", "-shared", *sources, "-o", str(out)])


def compile_program(compiler: str, name: str, flags: list[str], out: Path) -> None:
    """Compile and link a program of the tests."""
    parts = [CORE / f"{part}.cpp" for part in ("threads", "pool", "library")]
    sources = [str(HERE / f"{name}.cpp"), *map(str, parts)]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    libraries = ["-pthread", "-ldl"]
    run([compiler, "-std=c++17", "-O2", *warnings, *flags, *sources, "-o", str(out), *libraries])


def run(command: list[str]) -> None:
    """Run a command; its exit code becomes this program's if it fails."""
    result = subprocess.run(command, check=False)
    if result.returncode:
        sys.exit(f"exit code {result.returncode} of {' '.join(command)}")


def judge(tier: str, command: list[str]) -> None:
    """Run a compiled program on a tier; where it fails, so does this one."""
    result = subprocess.run(command, check=False)
    if result.returncode == UNSUPPORTED:
        print(f"{tier}: compiled; this processor does not run it", flush=True)
    elif result.returncode:
        sys.exit(f"{tier}: exit code {result.returncode} of {' '.join(command)}")


def judge_objects(command: list[str], tiers: list[str], objects: Path, numbers: list[str]) -> None:
    """Run a compiled program on the object of each tier and the scalar one."""
    for tier in tiers:
        pair = [str(objects / f"puna_{name}.so") for name in (tier, "scalar")]
        judge(tier, [*command, tier, *pair, *numbers])


def cross(machine: str, compiler: str | None) -> tuple[str, list[str]]:
    """The compiler for a machine, and what its programs are started with."""
    start: list[str] = []
    packages = "g++"
    chosen = compiler or "g++"
    if machine != platform.machine():
        if machine not in CROSS:
            sys.exit(f"there is no emulator for {machine}: say {' or '.join(CROSS)}")
        usual, start, packages = CROSS[machine]
        chosen = compiler or usual
    for program in (chosen, *start[:1]):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed: Debian's packages for it are {packages}")
    return chosen, start


def sanitized(name: str, start: list[str]) -> tuple[list[str], list[str]]:
    """The flags of a sanitizer, and what its programs are started with."""
    if name == "none":
        return [], start
    # ThreadSanitizer wants its shadow at addresses that random layouts may take
    fixed = ["setarch", "-R"] if name == "thread" and shutil.which("setarch") else []
    return [f"-fsanitize={name}", *SANITIZERS[name]], [*fixed, *start]


def main() -> None:
    """Compile and judge the chosen tiers, one after the other; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiers", nargs="*", metavar="TIER", help="all where none is named")
    parser.add_argument("--sanitize", choices=["none", *SANITIZERS], default="none")
    parser.add_argument(
        "--machine", default=platform.machine(), help="whose tiers; others than this by an emulator"
    )
    parser.add_argument("--compiler", help="g++ where none is named, or the machine's")
    parser.add_argument("--cases", type=int, default=200, help="rounds over the kernels")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--program", choices=PROGRAMS, help="all where none is named")
    parser.add_argument(
        "--objects", type=Path, help="folder of shared objects that are built already"
    )
    chosen = parser.parse_args()
    compiler, start = cross(chosen.machine, chosen.compiler)
    known = tiers(chosen.machine)
    for tier in chosen.tiers:
        if tier not in known:
            parser.error(f"{chosen.machine} has no tier {tier}: say {', '.join(known)}")
    extra, start = sanitized(chosen.sanitize, start)
    flags = {tier: [*own, *extra] for tier, own in known.items()}
    judged = chosen.tiers or list(known)
    numbers = [str(chosen.cases), str(chosen.seed)]
    programs = PROGRAMS if chosen.program is None else (chosen.program,)
    with tempfile.TemporaryDirectory() as made:
        if set(programs) & set(OBJECTS) and chosen.objects is None:
            for tier in dict.fromkeys(["scalar", *judged]):
                compile_tier(compiler, flags[tier], Path(made) / f"puna_{tier}.so")
        objects = chosen.objects or Path(made)
        for name in programs:
            for tier in judged if name in HEADERS else judged[:1]:
                program = Path(made) / f"{name}_{tier}"
                own = flags[tier] if name in HEADERS else extra
                compile_program(compiler, name, own, program)
                if name in OBJECTS:
                    judge_objects([*start, str(program)], judged, objects, numbers)
                else:
                    judge(tier, [*start, str(program), *numbers])


if __name__ == "__main__":
    main()
