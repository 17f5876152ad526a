"""deploy/: the commands that its files run are accepted by torchrun and by `puna`, and what the
files say in several places agrees.
"""

import re
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from launchers import (
    DOCKERFILE,
    ROOT,
    SKY_VOLUME,
    SLURM,
    container,
    kubernetes_environment,
    kubernetes_script,
    manifests,
    sky_environment,
    sky_task,
    words_of,
)
from test_commands import faults
from torch.distributed.elastic.rendezvous.utils import _parse_rendezvous_config
from torch.distributed.run import get_args_parser

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def parsed(words: list[str]) -> Namespace:
    """What torchrun reads from its arguments; the `puna` command in them has no fault."""
    read: Namespace = get_args_parser().parse_args(words)
    assert (read.module, read.training_script) == (True, "puna")
    assert read.rdzv_backend == "c10d"
    assert read.training_script_args[0] == "train"
    assert "--auto-resume" in read.training_script_args
    assert faults(["puna", *read.training_script_args]) == []
    return read


def is_host(read: Namespace) -> bool:
    """Whether this torchrun keeps the store that all meet at."""
    return _parse_rendezvous_config(read.rdzv_conf)["is_host"] == "1"


@pytest.mark.parametrize("index", [0, 1])
def test_the_pods_of_the_job_are_one_run(index: int, tmp_path: Path) -> None:
    read = parsed(words_of(kubernetes_script(), kubernetes_environment(index), tmp_path))
    spec = manifests()["Job"]["spec"]
    assert read.nnodes == str(spec["completions"]) == str(spec["parallelism"])
    assert read.nproc_per_node == str(container()["resources"]["limits"]["nvidia.com/gpu"])
    assert is_host(read) == (index == 0)


def test_the_first_pod_is_found_by_its_name() -> None:
    """A Job's pods are called by its name and their index, below the headless Service."""
    found = manifests()
    job, service = found["Job"]["metadata"]["name"], found["Service"]["metadata"]["name"]
    pods = found["Job"]["spec"]["template"]["spec"]
    host, _, port = kubernetes_environment(0)["RENDEZVOUS"].partition(":")
    assert host == f"{job}-0.{pods['subdomain']}"
    assert int(port) > 0
    assert pods["subdomain"] == service
    assert found["Service"]["spec"]["clusterIP"] == "None"
    assert found["Service"]["spec"]["selector"] == {"batch.kubernetes.io/job-name": job}


def test_the_pods_share_a_volume_that_is_their_working_directory() -> None:
    found = manifests()
    volumes = {one["name"]: one for one in found["Job"]["spec"]["template"]["spec"]["volumes"]}
    mounted = {one["mountPath"]: volumes[one["name"]] for one in container()["volumeMounts"]}
    claim = mounted[container()["workingDir"]]["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_pod_has_longer_to_end_than_its_ranks_to_save() -> None:
    pods = manifests()["Job"]["spec"]["template"]["spec"]
    seconds = int(kubernetes_environment(0)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 30 < seconds < pods["terminationGracePeriodSeconds"]


def test_what_a_pod_failure_policy_asks_of_a_job() -> None:
    """The API server's rules, which no schema holds: a policy wants pods that never restart, and
    replaces them once they have failed.
    """
    spec = manifests()["Job"]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["completionMode"] == "Indexed", "backoffLimitPerIndex is for these alone"


def test_the_image_holds_the_recipe_and_what_the_package_is_made_of() -> None:
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    (copied,) = [line.split() for line in lines if line.startswith("COPY")]
    recipe = Path(kubernetes_environment(0)["RECIPE"]).relative_to(copied[2])
    assert (ROOT / recipe).is_file()
    rules = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    assert recipe.parts[0] in kept
    assert {"pyproject.toml", "setup.py", "native", "src", "README.md", "LICENSE"} <= kept
    assert all((ROOT / name).exists() for name in kept)
    assert container()["image"].endswith(f"/puna:{VERSION}")
    assert f"/puna:{VERSION} " in lines[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_nodes_of_the_sky_task_are_one_run(rank: int, tmp_path: Path) -> None:
    task = sky_task()
    gpus = int(task["resources"]["accelerators"].partition(":")[2])
    environment = sky_environment(rank, "10.0.0.4", "10.0.0.5", gpus=gpus)
    (shared,) = task["volumes"]
    (tmp_path / "recipes").mkdir()
    script = task["run"].replace(f"cd {shared} ", f"cd {tmp_path} ")
    read = parsed(words_of(script, environment, tmp_path))
    assert int(read.nnodes) == task["num_nodes"] == 2
    assert int(read.nproc_per_node) == gpus
    assert read.rdzv_endpoint.partition(":")[0] == "10.0.0.4"
    assert is_host(read) == (rank == 0)
    assert read.training_script_args[1] == str(tmp_path / environment["RECIPE"])
    assert (ROOT / environment["RECIPE"]).is_file()


def test_the_sky_task_mounts_the_volume_that_is_made_for_it() -> None:
    volume: dict[str, Any] = yaml.safe_load(SKY_VOLUME.read_text(encoding="utf-8"))
    assert list(sky_task()["volumes"].values()) == [volume["name"]]
    assert volume["config"]["access_mode"] == "ReadWriteMany"
    assert sky_task()["resources"]["infra"] == volume["infra"]


def test_a_slurm_job_is_told_of_its_end_before_its_ranks_need_to_have_saved() -> None:
    text = SLURM.read_text(encoding="utf-8")
    told = re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", text, re.MULTILINE)
    save = re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text)
    assert told is not None
    assert save is not None
    assert 30 < int(save[1]) < int(told[1])
