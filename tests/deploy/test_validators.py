"""deploy/: what the validators of others say of its files, each where it is installed, as `make
test-deploy` does.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from launchers import (
    DOCKERFILE,
    KUBERNETES,
    ROOT,
    SKY,
    SKY_VOLUME,
    SLURM,
    kubernetes_script,
    sky_task,
)

SKY_READS = """
import sys
from pathlib import Path

import sky
import yaml
from sky.skylet import constants
from sky.volumes.volume import Volume

# the names of accelerators, which it would fetch
names = Path.home() / ".sky" / "catalogs" / constants.CATALOG_SCHEMA_VERSION / "common"
names.mkdir(parents=True)
(names / "accelerators.csv").write_text("AcceleratorName,Clouds\\nH100,['Kubernetes']\\n")

task = sky.Task.from_yaml(sys.argv[1])
task.validate()
with open(sys.argv[2]) as file:
    Volume.from_yaml_config(yaml.safe_load(file)).validate(skip_cloud_compatibility=True)
(wanted,) = task.resources
print(task.num_nodes, wanted.accelerators, wanted.job_recovery, task.envs["RECIPE"])
"""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make test-deploy installs it in .deploy/")
    return found


def ran(*words: str | Path, **environment: str) -> str:
    """What a program says that must succeed."""
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_shellcheck_on_the_scripts(tmp_path: Path) -> None:
    found = program("shellcheck")
    scripts = {
        "kubernetes": kubernetes_script(),
        "setup": sky_task()["setup"],
        "run": sky_task()["run"],
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        ran(found, "--shell", "bash", tmp_path / name)
    ran(found, "--shell", "bash", SLURM)


@pytest.mark.parametrize("version", ["1.33", "1.35"])
def test_kubernetes_schemas_on_the_job(version: str) -> None:
    ran(program("kubernetes-validate"), "--strict", "--kubernetes-version", version, KUBERNETES)


def test_hadolint_on_the_dockerfile() -> None:
    ran(program("hadolint"), DOCKERFILE)


def test_skypilot_reads_the_task_and_its_volume(tmp_path: Path) -> None:
    python = Path(program("sky")).with_name("python")
    own = {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    said = ran(python, "-c", SKY_READS, SKY, SKY_VOLUME, **own)
    restarts = "{'max_restarts_on_errors': 3, 'strategy': None}"
    assert said.splitlines()[-1] == f"2 {{'H100': 8}} {restarts} recipes/tiny.yaml"
