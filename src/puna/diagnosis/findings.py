"""All facts of a machine that a bug report needs, as one value: `puna doctor` prints it.

No name of a user or a machine is looked up, but a path may hold one: the caller shortens them.
Costs the import of PyTorch; measurements, where they are wanted, take most of the time.
"""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from puna.device import choose_device, memory_bytes, watch_others
from puna.diagnosis.control_group import ControlGroup, control_group_limits
from puna.diagnosis.decisions import Decision, NativeCore, decide, find_native_core, warn
from puna.diagnosis.measurements import Measurement, measure_limits
from puna.diagnosis.processor import HostMemory, Processor, find_memory, find_processor
from puna.diagnosis.software import System, TorchBuild, find_system, find_torch_build, versions
from puna.native.library import passed_over

SETTINGS = (
    "ATEN_",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LD_PRELOAD",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
)
"""Beginnings of the variables that change how PyTorch and the libraries below it compute."""

_WATCHED = 0.3
"""Seconds at least of watching other programs: the kernel counts in hundredths."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA or ROCm device of PyTorch."""

    name: str
    memory: int
    """Bytes, in use or not."""

    capability: str
    """CUDA's compute capability, such as 9.0."""


@dataclass(frozen=True)
class OtherPrograms:
    """The load that this process did not make."""

    cores: float | None
    """Taken while the facts were gathered, on average; None off Linux."""

    load_average: tuple[float, float, float] | None
    """Of 1, 5 and 15 minutes, with this process; None where the system has none."""


@dataclass(frozen=True)
class Findings:
    """The facts, in the order in which they are printed."""

    versions: dict[str, str | None]
    system: System
    processor: Processor
    control_group: ControlGroup
    memory: HostMemory
    disk_free: int | None
    """Bytes at the working folder."""

    gpus: tuple[Gpu, ...]
    torch: TorchBuild
    environment: dict[str, str]
    native: NativeCore
    other_programs: OtherPrograms
    limits: tuple[Measurement, ...] | None
    """None where nothing was to be measured."""

    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]


def gather(
    isa: str,
    environment: Mapping[str, str],
    *,
    measure: bool,
    folder: Path = Path(),
    root: Path = Path("/"),
) -> Findings:
    """Gather the facts.

    isa: "auto", "torch" or a tier of the native core. environment: all variables, of which those
    of `SETTINGS` are kept. measure: limits too. folder: whose disk is asked. root: of the files of
    the kernel. Raises NativeError for a tier that cannot be used, before anything is measured.
    """
    device = choose_device("auto")
    core = find_native_core(isa, device)
    began, others = time.monotonic(), watch_others()
    settings = {
        name: environment[name].encode(errors="replace").decode()  # a path may be no UTF-8
        for name in sorted(environment)
        if name.startswith(SETTINGS)
    }
    processor, memory = find_processor(root), find_memory(root)
    group, build = control_group_limits(root), find_torch_build(root)
    limits = _measure(device, processor, memory, group) if measure else None
    time.sleep(max(0.0, _WATCHED - (time.monotonic() - began)))
    cores = others()
    return Findings(
        versions=versions(),
        system=find_system(),
        processor=processor,
        control_group=group,
        memory=memory,
        disk_free=_disk_free(folder),
        gpus=_gpus(),
        torch=build,
        environment=settings,
        native=core,
        other_programs=OtherPrograms(cores, _load_average()),
        limits=limits,
        decisions=decide(
            isa,
            device,
            core,
            threads=build.threads,
            cores=processor.allowed_cores,
            environment=settings,
        ),
        warnings=(*passed_over(), *warn(processor, group, build, cores, root)),
    )


def _measure(
    device: torch.device, processor: Processor, memory: HostMemory, group: ControlGroup
) -> tuple[Measurement, ...]:
    if device.type != "cpu":
        return measure_limits(device, 0, memory_bytes(device))
    rooms = [room for room in (memory.available, group.memory) if room is not None]
    return measure_limits(device, processor.last_cache, min(rooms, default=None))


def _disk_free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # as where the working folder was deleted
        return None


def _gpus() -> tuple[Gpu, ...]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = (torch.cuda.get_device_properties(number) for number in range(count))
    return tuple(Gpu(each.name, each.total_memory, f"{each.major}.{each.minor}") for each in found)


def _load_average() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None
