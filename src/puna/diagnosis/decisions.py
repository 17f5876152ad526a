"""The choices that Puna makes by itself on this machine, each with its reason, and the settings
that stand in its way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from puna.device import Precision, choose_precision
from puna.diagnosis.control_group import ControlGroup
from puna.diagnosis.processor import Processor
from puna.diagnosis.software import TorchBuild
from puna.engine_process.process import default_threads
from puna.native.library import available_tiers, compiled_tiers, load, problem

BUSY = 0.5
"""Cores of other programs from which a warning is worth its line."""

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Decision:
    """One choice."""

    subject: str
    """device, precision, isa, threads or serving threads."""

    choice: str
    reason: str


@dataclass(frozen=True)
class NativeCore:
    """The native core and its tiers."""

    chosen: str | None
    """The tier; None where PyTorch does the work."""

    path: str | None
    """The shared object of the chosen tier."""

    compiled: tuple[str, ...]
    """The tiers that were compiled, slowest first."""

    available: tuple[str, ...]
    """Those of them that this processor runs."""

    problem: str | None
    """The reason why there is no core, with the remedy."""


def find_native_core(isa: str, device: torch.device) -> NativeCore:
    """The core with the tier that `isa` ("auto", "torch" or a tier) means on this device.

    Raises NativeError for a tier that is not known or cannot be used here.
    """
    reason = problem()
    library = None
    if isa not in ("auto", "torch"):
        library = load(isa)
    elif isa == "auto" and reason is None and device.type == "cpu":
        library = load()
    return NativeCore(
        chosen=library.tier if library else None,
        path=str(library.path) if library else None,
        compiled=compiled_tiers(),
        available=available_tiers(),
        problem=reason,
    )


def decide(
    isa: str,
    device: torch.device,
    core: NativeCore,
    *,
    threads: int,
    cores: int,
    environment: Mapping[str, str],
) -> tuple[Decision, ...]:
    """Device, precision, isa, threads and the threads of `puna serve`, in this order.

    isa: as it was asked for. threads: PyTorch's. cores: those that this process may run on.
    environment: the variables that were set.
    """
    precision = choose_precision("auto", device)
    return (
        Decision("device", str(device), _device_reason(device)),
        Decision("precision", precision, _precision_reason(device, precision)),
        Decision("isa", core.chosen or "torch", _isa_reason(isa, device, core)),
        Decision("threads", str(threads), _threads_reason(environment)),
        Decision(
            "serving threads",
            str(default_threads(threads, cores)),
            "puna serve leaves one core free, where there are several",
        ),
    )


def warn(
    processor: Processor,
    group: ControlGroup,
    build: TorchBuild,
    others: float | None,
    root: Path = Path("/"),
) -> tuple[str, ...]:
    """Sentences on what makes Puna slow here, each with its remedy. others: cores that other
    programs take.
    """
    said = []
    cores = float(processor.allowed_cores)
    if group.cores is not None:
        cores = min(cores, group.cores)
    if build.threads > math.ceil(cores):
        said.append(
            f"PyTorch computes with {build.threads} threads on {cores:g} cores, so that threads"
            f" wait for one another: set OMP_NUM_THREADS={max(1, math.floor(cores))}"
        )
    if len({Path(path).resolve() for path in build.openmp}) > 1:
        said.append(
            f"{len(build.openmp)} OpenMP libraries are loaded, each with threads of its own: see"
            " LD_PRELOAD, and let one package manager install PyTorch and NumPy"
        )
    if (root / "proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        said.append(
            "there is an NVIDIA driver, but PyTorch finds no GPU"
            + (
                f" (it was built for {build.accelerator}): see nvidia-smi and CUDA_VISIBLE_DEVICES"
                if build.accelerator
                else ": this is a build for CPUs; install one for CUDA"
            )
        )
    if others is not None and others >= BUSY:
        said.append(
            f"other programs take {others:.1f} of {processor.logical_cores} cores, so that Puna is"
            " slower, and measured limits are too low: end them or wait for them"
        )
    return tuple(said)


def _device_reason(device: torch.device) -> str:
    if device.type == "cuda":
        return f"PyTorch finds {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return "PyTorch finds no GPU"
    return "PyTorch finds it"


def _precision_reason(device: torch.device, precision: Precision) -> str:
    where = "processor" if device.type == "cpu" else "device"
    if precision == "bfloat16":
        return f"this {where} multiplies bfloat16 in hardware"
    return f"no bfloat16 arithmetic in this {where}: emulation is slower than float32"


def _isa_reason(isa: str, device: torch.device, core: NativeCore) -> str:
    if isa != "auto":
        aside = core.chosen is not None and device.type != "cpu"
        return f"asked for by --isa{', with train.device=cpu' if aside else ''}"
    if core.chosen:
        return "the fastest tier that this processor runs"
    if core.problem:
        return core.problem
    return f"the native core computes on CPUs, and the device is {device}"


def _threads_reason(environment: Mapping[str, str]) -> str:
    found = [f"{name}={environment[name]}" for name in _THREAD_SETTINGS if environment.get(name)]
    if found:
        return f"{' and '.join(found)} in the environment"
    return "PyTorch's own choice"
