"""Real processes of `puna train`, ended in every way, and continued to the weights of a run that
nothing ended.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from puna.run_log import read_run_log
from puna.training.checkpoint import checkpoints
from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs
from puna.training.trainer import Trainer

LONG = (
    "train.steps=90",
    "train.checkpoint_every=3",
    "train.validate_every=30",
    "optimizer.name=muon",
)


def puna(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from puna.cli.main import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, after: int) -> None:
    """Return when a checkpoint beyond step `after` is there; fail if the process ends before."""
    deadline = time.monotonic() + 120
    while max(checkpoints(run), default=-1) <= after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(
    tiny_recipe: Callable[..., Recipe],
    tiny_inputs: RunInputs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The run that nothing ends."""
    run = tmp_path_factory.mktemp("whole") / "run"
    trainer = Trainer(tiny_recipe(*LONG), run, tiny_inputs)
    trainer.start(resume=False)
    assert trainer.train()
    return run


def assert_same(run: Path, whole: Path) -> None:
    """Weights, optimizer state and logged numbers, bit for bit."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, two = (load_file(checkpoints(folder)[90] / file) for folder in (run, whole))
        assert one.keys() == two.keys()
        assert [name for name in one if not one[name].equal(two[name])] == []
    timed = {"seconds", "tokens_per_second", "mfu", "matmul_peak_gflops"}
    logs = [
        [
            {k: v for k, v in r.items() if k not in timed}
            for r in read_run_log(folder / "metrics.jsonl")
        ]
        for folder in (run, whole)
    ]
    assert logs[0] == logs[1]


def test_ended_in_every_way_it_ends_with_the_same_weights(
    tiny_recipe_file: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed three times at random moments, interrupted and terminated in between, and resumed
    after each.
    """
    run = tmp_path / "run"
    rng = random.Random(0)
    command = ["train", str(tiny_recipe_file), f"run={run}", *LONG]
    for ending in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = puna(*command)
        wait_for_checkpoint(
            process, run, after=max(checkpoints(run), default=0) + rng.randint(0, 8)
        )
        time.sleep(rng.uniform(0, 0.1))  # in a step, in a save, in a validation
        process.send_signal(ending)
        output, errors = process.communicate(timeout=60)
        assert not (run / "summary.json").exists()
        if ending == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 128 + ending, errors
            assert errors == ""
            said = (
                f"stopped and saved at step {max(checkpoints(run))}; the same command with --resume"
                " goes on"
            )
            assert said in " ".join(output.split())
        command = [*command, "--resume"][: 4 + len(LONG)]
    process = puna(*command)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "bits per byte" in output
    assert_same(run, whole)
    final, trained = (
        load_file(run / "model" / "model.safetensors"),
        load_file(checkpoints(whole)[90] / "model.safetensors"),
    )
    assert all(final[name].equal(trained[name]) for name in trained)
    assert not list((run / "checkpoints").glob(".*")), "what the kills left half written is gone"
    assert json.loads((run / "summary.json").read_text())["tokens"] == 90 * 128


def test_a_full_disk_is_one_line_and_the_last_checkpoint_serves(
    tiny_recipe: Callable[..., Recipe],
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    whole: Path,
    small_disk: Path,
) -> None:
    run = small_disk / "run"
    size = sum(file.stat().st_size for file in checkpoints(whole)[90].iterdir())
    ballast = small_disk / "ballast"
    disk = shutil.disk_usage(small_disk).total
    ballast.write_bytes(bytes(disk - int(2.5 * size)))  # room for two checkpoints and a half
    process = puna("train", str(tiny_recipe_file), f"run={run}", *LONG)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: ")
    assert "No space left on device" in errors
    assert errors.count("\n") == 1
    assert checkpoints(run), "some were saved before the disk was full"
    ballast.unlink()
    resumed = Trainer(tiny_recipe(*LONG), run, tiny_inputs)
    resumed.start(resume=True)
    assert resumed.progress.step == max(checkpoints(run)) > 0
    assert resumed.train()
    assert_same(run, whole)
