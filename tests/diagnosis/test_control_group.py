"""Limits of control groups, read from file systems that tests write: version 1, version 2, groups
below the mount, mounts that begin at the group, and what cannot be read.
"""

from pathlib import Path

import pytest

from puna.diagnosis.control_group import ControlGroup, control_group_limits

NOTHING = ControlGroup(cores=None, memory=None)
V2 = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "{n} 24 0:26 {root} /sys/fs/cgroup/{name} rw shared:4 - cgroup cgroup rw,{controllers}"
UNLIMITED_V1 = "9223372036854771712"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def version_2(group: str, begins_at: str = "/") -> dict[str, str]:
    mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + V2.format(root=begins_at)
    return {"proc/self/mountinfo": mounts, "proc/self/cgroup": f"0::{group}"}


def version_1(group: str, begins_at: str = "/") -> dict[str, str]:
    mounts = "\n".join(
        [
            V1.format(n=31, root=begins_at, name="cpu,cpuacct", controllers="cpu,cpuacct"),
            V1.format(n=32, root=begins_at, name="memory", controllers="memory"),
            V1.format(n=33, root=begins_at, name="cpuset", controllers="cpuset"),
        ]
    )
    groups = f"4:memory:{group}\n3:cpuset:/\n2:cpu,cpuacct:{group}\n1:name=systemd:{group}"
    return {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "2147483648"}, ControlGroup(1.5, 2**31)),
        ({"cpu.max": "max 100000", "memory.max": "max"}, NOTHING),
        ({"cpu.max": "50000", "memory.max": ""}, NOTHING),
        ({"cpu.max": "50000 0", "memory.max": "-5"}, NOTHING),
        ({"cpu.max": "many cores", "memory.max": "2G"}, NOTHING),
        ({}, NOTHING),
    ],
)
def test_version_2_in_a_container(
    files: dict[str, str], expected: ControlGroup, tmp_path: Path
) -> None:
    """The group is the root of what the container sees."""
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert control_group_limits(write(tmp_path, version_2("/") | files)) == expected


def test_the_tightest_limit_of_the_ancestors_holds(tmp_path: Path) -> None:
    """A job of two cores inside a slice of half a core has half a core."""
    group = "sys/fs/cgroup/user.slice/job"
    root = write(
        tmp_path,
        version_2("/user.slice/job")
        | {
            f"{group}/cpu.max": "200000 100000",
            f"{group}/memory.max": "1000000",
            "sys/fs/cgroup/user.slice/cpu.max": "50000 100000",
            "sys/fs/cgroup/user.slice/memory.max": "max",
            "sys/fs/cgroup/other.slice/cpu.max": "1000 100000",
        },
    )
    assert control_group_limits(root) == ControlGroup(0.5, 1_000_000)


@pytest.mark.parametrize("begins_at", ["/docker/abc", "/"])
def test_version_1_where_the_mount_begins_at_the_group_or_above(
    begins_at: str, tmp_path: Path
) -> None:
    """Docker without a namespace of control groups mounts the group itself, and
    /proc/self/cgroup names it from the machine's root.
    """
    below = "" if begins_at == "/docker/abc" else "docker/abc/"
    files = {
        f"sys/fs/cgroup/cpu,cpuacct/{below}cpu.cfs_quota_us": "250000",
        f"sys/fs/cgroup/cpu,cpuacct/{below}cpu.cfs_period_us": "100000",
        f"sys/fs/cgroup/memory/{below}memory.limit_in_bytes": "4294967296",
    }
    root = write(tmp_path, version_1("/docker/abc", begins_at) | files)
    assert control_group_limits(root) == ControlGroup(2.5, 2**32)


def test_version_1_without_limits(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
    }
    assert control_group_limits(write(tmp_path, version_1("/") | files)) == NOTHING


def test_a_group_outside_of_what_is_mounted_is_the_mount_itself(tmp_path: Path) -> None:
    """A path with `..` must not lead out of the mount: here to limits of somebody else."""
    root = write(
        tmp_path,
        version_2("/../elsewhere")
        | {
            "sys/fs/elsewhere/cpu.max": "1000 100000",
            "sys/fs/cgroup/cpu.max": "300000 100000",
        },
    )
    assert control_group_limits(root) == ControlGroup(3.0, None)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/mountinfo": "", "proc/self/cgroup": ""},
        {"proc/self/mountinfo": "a b - cgroup2", "proc/self/cgroup": "0"},
        {"proc/self/mountinfo": "\x00 - - -", "proc/self/cgroup": "::::\n:"},
    ],
)
def test_what_cannot_be_read_is_no_limit(files: dict[str, str], tmp_path: Path) -> None:
    assert control_group_limits(write(tmp_path, files)) == NOTHING
