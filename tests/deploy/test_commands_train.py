"""deploy/: two nodes that run a file's command for real, on this host, become one run that trains
to its end and is resumed.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from launchers import kubernetes_environment, kubernetes_script, sky_environment, sky_task

pytestmark = pytest.mark.slow


def kubernetes(node: int, recipe: Path, port: int, folder: Path) -> tuple[str, dict[str, str]]:
    own = {"RENDEZVOUS": f"localhost:{port}", "NUM_GPUS": "1", "RECIPE": str(recipe)}
    return kubernetes_script(), kubernetes_environment(node) | own


def sky(node: int, recipe: Path, port: int, folder: Path) -> tuple[str, dict[str, str]]:
    script = sky_task()["run"].replace(":29500", f":{port}").replace("/shared", str(folder))
    environment = sky_environment(node, "localhost", "localhost", gpus=1)
    return script, environment | {"RECIPE": str(recipe)}


Node = Callable[[int, Path, int, Path], tuple[str, Mapping[str, str]]]


@pytest.mark.parametrize("node", [kubernetes, sky])
def test_two_nodes_train_one_model(node: Node, tiny_recipe_file: Path, tmp_path: Path) -> None:
    """Started once more after its end, there is nothing to train, and no failure either."""
    recipe = tmp_path / "short.yaml"
    recipe.write_text(f"extends: {tiny_recipe_file}\nrun: {tmp_path / 'run'}\n")
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        processes = []
        for number in range(2):
            script, environment = node(number, recipe, port, tmp_path)
            own = {"PATH": path, "OMP_NUM_THREADS": "1"}
            processes.append(
                subprocess.Popen(
                    ["bash", "-ec", script],
                    cwd=tmp_path,
                    env=os.environ | environment | own,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for process in processes:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["tokens"] == 40 * 128
