"""What the files of deploy/ run: their shell commands, with the environment that a scheduler gives.

`words_of` runs such a command with a `torchrun` that says its arguments, so that bash itself is the
judge of quoting and expansion.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "deploy" / "slurm" / "train.sbatch"
SKY = ROOT / "deploy" / "sky" / "train.yaml"
SKY_VOLUME = ROOT / "deploy" / "sky" / "volume.yaml"
KUBERNETES = ROOT / "deploy" / "kubernetes" / "train.yaml"
DOCKERFILE = ROOT / "deploy" / "kubernetes" / "Dockerfile"


def manifests() -> dict[str, dict[str, Any]]:
    """The documents of the Kubernetes file by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))}


def container() -> dict[str, Any]:
    """The one container of the Job's pods."""
    (found,) = manifests()["Job"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def kubernetes_script() -> str:
    (script,) = container()["args"]
    return str(script)


def kubernetes_environment(index: int) -> dict[str, str]:
    """What a pod of this index has: the container's variables, and the one that the Job gives."""
    named = {one["name"]: one["value"] for one in container()["env"]}
    return named | {"JOB_COMPLETION_INDEX": str(index)}


def sky_task() -> dict[str, Any]:
    return dict(yaml.safe_load(SKY.read_text(encoding="utf-8")))


def sky_environment(rank: int, *addresses: str, gpus: int = 8) -> dict[str, str]:
    """What SkyPilot gives the commands of a node, and the task's own variables."""
    return sky_task()["envs"] | {
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NODE_IPS": "\n".join(addresses),
        "SKYPILOT_NUM_NODES": str(len(addresses)),
        "SKYPILOT_NUM_GPUS_PER_NODE": str(gpus),
    }


def write_program(path: Path, script: str) -> None:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def words_of(script: str, environment: Mapping[str, str], folder: Path) -> list[str]:
    """The arguments that a script gives to torchrun, where `folder` is the working directory."""
    write_program(folder / ".venv" / "bin" / "torchrun", r"""printf '%s\0' "$@" """)
    path = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script],
        env={"PATH": path} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]
