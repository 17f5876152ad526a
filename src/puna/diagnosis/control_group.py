"""Limits of the Linux control group that this process runs in: the cores and the memory of a
container or a job.

Sources: Control Group v2 (`cpu.max`, `memory.max`) and the controllers of version 1
(`cpu.cfs_quota_us`, `memory.limit_in_bytes`) in the kernel's Documentation/admin-guide; the lines
of /proc/self/mountinfo and /proc/self/cgroup in proc(5) and cgroups(7).

Usual mistake: reading the files of the mount alone. The group may lie deeper, a limit of any
ancestor holds for it, and in a container the mount may begin at the group itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from puna.diagnosis.kernel_file import read_kernel_file

NO_LIMIT = 2**60
"""Bytes from which version 1's number means that there is no limit: its largest is 2^63 less a
page."""


@dataclass(frozen=True)
class ControlGroup:
    """The tightest limits of the group and its ancestors; None where there is none."""

    cores: float | None
    """Processor time that the group gets in a period of the scheduler, over that period."""

    memory: int | None
    """Bytes."""


class _Mount(NamedTuple):
    version: int
    controllers: frozenset[str]
    begins_at: str
    """The group that is mounted there, which may be one below the system's root."""
    folder: Path


def control_group_limits(root: Path = Path("/")) -> ControlGroup:
    """Read the limits below `root`, the file system's; none off Linux. What cannot be read is no
    limit.
    """
    mounts = list(_mounts(root))
    cores = [
        limit
        for mount, folder in _folders(root, mounts, "cpu")
        if (limit := _cores(folder, mount.version)) is not None
    ]
    memory = [
        limit
        for mount, folder in _folders(root, mounts, "memory")
        if (limit := _memory(folder, mount.version)) is not None
    ]
    return ControlGroup(min(cores, default=None), min(memory, default=None))


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in read_kernel_file(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        folder = root / fields[4].lstrip("/")
        yield _Mount(version, frozenset(kind[2].split(",")), fields[3], folder)


def _folders(root: Path, mounts: list[_Mount], controller: str) -> Iterator[tuple[_Mount, Path]]:
    """Every folder whose limits hold for this process: its group's and those above, as far as they
    are mounted.
    """
    for line in read_kernel_file(root / "proc/self/cgroup").splitlines():
        number, controllers, group = ([*line.split(":", 2), "", ""])[:3]
        for mount in mounts:
            if mount.version == 2:
                is_ours = number == "0" and not controllers
            else:
                is_ours = controller in controllers.split(",") and controller in mount.controllers
            if is_ours:
                for below in _at_and_above(group, mount.begins_at):
                    yield mount, mount.folder / below


def _at_and_above(group: str, begins_at: str) -> list[PurePosixPath]:
    """The paths from a mount that begins at one group down to another, and the mount itself."""
    path = PurePosixPath(group)
    if ".." in path.parts or not path.is_relative_to(begins_at):
        return [PurePosixPath()]  # outside of what this process may see
    relative = path.relative_to(begins_at)
    return [relative, *relative.parents]


def _cores(folder: Path, version: int) -> float | None:
    if version == 2:
        quota, period = ["", "", *read_kernel_file(folder / "cpu.max").split()][-2:]
    else:
        quota, period = (
            read_kernel_file(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
    if not (quota.isdecimal() and period.isdecimal() and int(period)):  # "max" and -1: no limit
        return None
    return int(quota) / int(period)


def _memory(folder: Path, version: int) -> int | None:
    name = "memory.max" if version == 2 else "memory.limit_in_bytes"
    limit = read_kernel_file(folder / name)
    return int(limit) if limit.isdecimal() and int(limit) < NO_LIMIT else None
