"""The programs below Puna: versions, system, and the build of PyTorch with its threads.

Nothing here is measured, and nothing names the machine or its user.
"""

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from puna.diagnosis.kernel_file import read_kernel_file

LIBRARIES = ("puna", "torch", "numpy", "transformers")

_OPENMP = re.compile(r"lib(?:g|i|)omp[\w.-]*\.so[\w.]*")
"""GNU's libgomp, Intel's libiomp5, LLVM's libomp."""


@dataclass(frozen=True)
class System:
    """The operating system, each as it calls itself; a text may be empty."""

    name: str
    kernel: str
    architecture: str
    libc: str


@dataclass(frozen=True)
class TorchBuild:
    """PyTorch's libraries and threads in this process."""

    threads: int
    """Of one operation."""

    interop_threads: int
    """Of operations at once."""

    vector_code: str
    """The widest of its own kernels that it chose: DEFAULT, AVX2, AVX512, ..."""

    blas: str
    """The library of matrix products, with its version where the build names it."""

    onednn: str | None
    """The version of oneDNN, which computes bfloat16 and int8 products; None without."""

    accelerator: str | None
    """The CUDA or ROCm that it was built for; None for a CPU build."""

    openmp: tuple[str, ...]
    """Files of the OpenMP libraries that are loaded; none off Linux."""


def versions() -> dict[str, str | None]:
    """Python's version and those of libraries; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def find_system() -> System:
    """The operating system."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # not Linux
        name = " ".join((platform.system(), platform.mac_ver()[0])).strip()
    return System(name, platform.release(), platform.machine(), " ".join(platform.libc_ver()))


def find_torch_build(root: Path = Path("/")) -> TorchBuild:
    """PyTorch's build; `root` is the file system's."""
    build = torch.__config__.show()
    blas = _first(r"BLAS_INFO=(\w+)", build) or "unknown"
    release = _first(r"Math Kernel Library Version (\S+?)(?:-Product)?\s", build)
    return TorchBuild(
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        vector_code=torch.backends.cpu.get_cpu_capability(),
        blas=f"{blas} {release}" if blas == "mkl" and release else blas,
        onednn=_first(r"MKL-DNN v(\S+)", build),
        accelerator=(
            f"CUDA {torch.version.cuda}"
            if torch.version.cuda
            else f"ROCm {torch.version.hip}"
            if torch.version.hip
            else None
        ),
        openmp=_openmp(root / "proc/self/maps"),
    )


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _openmp(maps: Path) -> tuple[str, ...]:
    """The mapped files of this process that are OpenMP libraries (proc(5): the path is the sixth
    field).
    """
    lines = read_kernel_file(maps).splitlines()
    paths = (fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6)
    return tuple(dict.fromkeys(path for path in paths if _OPENMP.fullmatch(Path(path).name)))
