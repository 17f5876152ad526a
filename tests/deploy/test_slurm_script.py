"""deploy/slurm/train.sbatch, run by bash beside stand-ins of Slurm's programs: what it starts, and
what it does when its time ends, its run fails or comes to its end.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launchers import SLURM, write_program
from test_launchers import is_host, parsed

JOB = 4711
STAND_INS = {
    "scontrol": 'if [[ $1 == show ]]; then printf "node-7\\nnode-8\\n"; else echo "$@" >>asked; fi',
    "srun": '[[ $1 == --kill-on-bad-exit=1 ]] || exit 9; shift; exec "$@"',
    # as Slurm's own, it sends a signal to the steps of a job and not to its script
    "scancel": '[[ $* == "--signal=TERM 4711" ]] && kill -TERM "$(<step)"',
}


def begin(folder: Path, torchrun: str, *words: str, node: int = 0) -> subprocess.Popen[str]:
    """The script in a folder, on one of two nodes with four GPUs each."""
    for name, text in STAND_INS.items():
        write_program(folder / "slurm" / name, text)
    write_program(folder / ".venv" / "bin" / "torchrun", torchrun)
    environment = {
        "PATH": f"{folder / 'slurm'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(JOB),
        "SLURM_JOB_NODELIST": "node-[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_NODEID": str(node),
    }
    return subprocess.Popen(
        ["bash", SLURM, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def asked(folder: Path) -> str:
    """What the script asked of scontrol besides names."""
    path = folder / "asked"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("node", [0, 1])
def test_each_node_of_a_job_joins_one_run(node: int, tmp_path: Path) -> None:
    words = ("recipes/tiny.yaml", "train.steps=400", "data.mixture=[{path: a b}]")
    said, errors = begin(tmp_path, r"""printf '%s\0' "$@" """, *words, node=node).communicate()
    read = parsed(said.split("\0")[:-1])
    assert errors == ""
    assert (read.nnodes, read.nproc_per_node, read.rdzv_id) == ("2", "4", str(JOB))
    assert read.rdzv_endpoint == f"node-7:{20000 + JOB}"
    assert is_host(read) == (node == 0)
    assert read.training_script_args == ["train", *words, "--auto-resume"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_run_that_ends_or_fails_by_itself_is_not_queued_again(code: int, tmp_path: Path) -> None:
    script = begin(tmp_path, f"exit {code}", "recipes/tiny.yaml")
    script.communicate(timeout=30)
    assert script.returncode == code
    assert asked(tmp_path) == ""


@pytest.mark.parametrize(("code", "expected"), [(1, f"requeue {JOB}\n"), (0, "")])
def test_when_its_time_ends_all_save_and_the_job_is_queued_again(
    code: int, expected: str, tmp_path: Path
) -> None:
    """Unless the run came to its end in that moment."""
    torchrun = f"trap 'sleep 0.2; echo saved >saved; exit {code}' TERM; echo $$ >step"
    script = begin(tmp_path, f"{torchrun}; while :; do sleep 0.05; done", "recipes/tiny.yaml")
    end = time.monotonic() + 30
    while not (tmp_path / "step").exists() or not (tmp_path / "step").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    script.send_signal(signal.SIGUSR1)
    _, errors = script.communicate(timeout=30)
    assert (script.returncode, errors) == (0, "")
    assert (tmp_path / "saved").exists()
    assert asked(tmp_path) == expected


def test_a_job_without_a_recipe_says_how_it_is_given(tmp_path: Path) -> None:
    script = begin(tmp_path, "exit 0")
    _, errors = script.communicate(timeout=30)
    assert script.returncode != 0
    assert "name a recipe: sbatch deploy/slurm/train.sbatch recipes/tiny.yaml" in errors
