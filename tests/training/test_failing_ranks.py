"""Real processes that train together, of which one is killed, hangs or finds its disk full: the
others end in time and say which it was, and the run goes on from its last whole checkpoint.
"""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rank_pool import RankPool, process_of, train_alone, train_run, untimed

from puna.errors import TrainingError
from puna.training.checkpoint import checkpoints
from puna.training.distributed import Ranks
from puna.training.run_inputs import RunInputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says which process is who")

KEYS = (
    "train.steps=60",
    "train.validate_every=30",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "optimizer.name=muon",
    "train.shards=all",
)
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def alone(
    tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that nothing ends."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train_alone(tiny_recipe_file, run, *KEYS[:-1])
    return run


def assert_as(run: Path, alone: Path) -> None:
    """Both logs have the same records, and numbers that agree to rounding."""
    ours, theirs = untimed(run), untimed(alone)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-3)


@pytest.fixture
def launch(tiny_recipe_file: Path) -> Iterator[Launch]:
    """Start `puna train` in two processes that share the weights; ended with the test."""
    launchers = []

    def start(run: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "puna", "train", str(tiny_recipe_file), f"run={run}"]
        launchers.append(
            subprocess.Popen(
                [*command, *KEYS, "--processes", "2", *options],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            )
        )
        return launchers[-1]

    yield start
    for launcher in launchers:
        if launcher.poll() is None:
            launcher.terminate()  # it ends its processes within the timeout
        launcher.communicate()


def wait_for_checkpoint(launcher: subprocess.Popen[str], run: Path, after: int) -> int:
    """The newest checkpoint's step, once it is beyond `after`."""
    deadline = time.monotonic() + 120
    while (newest := max(checkpoints(run), default=-1)) <= after:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.01)
    return newest


def test_a_killed_rank_is_named_and_all_go_on_from_the_last_checkpoint(
    launch: Launch, tiny_recipe_file: Path, alone: Path, tmp_path: Path
) -> None:
    """Killed twice: the first time all are started again, the second time the command ends."""
    run = tmp_path / "run"
    launcher = launch(run, "--restarts", "1", "--timeout", "60")
    newest = wait_for_checkpoint(launcher, run, after=0)
    os.kill(process_of(launcher, 1), signal.SIGKILL)
    wait_for_checkpoint(launcher, run, after=newest + 3)
    process, begin = process_of(launcher, 0), time.monotonic()
    os.kill(process, signal.SIGKILL)
    _, errors = launcher.communicate(timeout=60)
    assert time.monotonic() - begin < 40
    assert launcher.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"error: of the processes rank 0 (process {process}) failed first")
    assert "SIGKILL" in last
    steps = [record["step"] for record in untimed(run)]
    assert steps == list(range(1, len(steps) + 1)), "what was done again is there once"
    assert len(steps) < 60
    assert train_alone(tiny_recipe_file, run, *KEYS)
    assert_as(run, alone)
    assert not list((run / "checkpoints").glob(".*")), "what the kills left half written is gone"


def test_a_signal_to_the_launcher_saves_and_stops_all(
    launch: Launch, tiny_recipe_file: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    launcher = launch(run)
    wait_for_checkpoint(launcher, run, after=0)
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGINT, errors
    assert untimed(run)[-1]["step"] == max(checkpoints(run)) < 60
    assert train_alone(tiny_recipe_file, run, *KEYS)
    assert_as(run, alone)


@pytest.mark.slow  # torchrun's launcher waits half a minute for a process that does not end
def test_a_rank_that_hangs_is_named_within_the_timeout(
    launch: Launch, tiny_recipe_file: Path, alone: Path, tmp_path: Path
) -> None:
    """A stopped process keeps its connections: only the clock tells."""
    run = tmp_path / "run"
    launcher = launch(run, "--timeout", "6")
    wait_for_checkpoint(launcher, run, after=0)
    process, begin = process_of(launcher, 1), time.monotonic()
    os.kill(process, signal.SIGSTOP)
    _, errors = launcher.communicate(timeout=120)
    assert time.monotonic() - begin < 6 + 5 + 30 + 15
    assert launcher.returncode == 1
    assert "error: rank 0: RuntimeError: " in errors
    assert f"rank 1 (host {socket.gethostname()}, process {process}) did not answer" in errors
    assert not Path(f"/proc/{process}").exists(), "no process stays behind"
    train_alone(tiny_recipe_file, run, *KEYS)
    assert_as(run, alone)


def _train_until(ranks: Ranks, until: int, *arguments: Any) -> str:
    """What a rank's training up to a step says."""
    try:
        train_run(ranks, *arguments, until=until)
    except Exception as error:  # as the command does
        return ranks.explain(error)
    return "no error"


def test_a_disk_that_is_full_ends_the_run_until_there_is_room(
    tiny_recipe_file: Path, alone: Path, small_disk: Path
) -> None:
    """The kernel's own refusal: a stranger's file takes what is left."""
    run, filler = small_disk / "run", small_disk / "filler"
    arguments = (tiny_recipe_file, run, *KEYS)
    with RankPool(2) as pool:
        assert pool.run(2, _train_until, 7, *arguments) == ["no error"] * 2
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        for said in pool.run(2, _train_until, 30, *arguments):
            assert "No space left on device" in said
        assert max(checkpoints(run)) == 7
        filler.unlink()
        assert pool.run(2, _train_until, 60, *arguments) == ["no error"] * 2
    assert_as(run, alone)


def _out_of_room(ranks: Ranks, until: int, full: int, *arguments: Any) -> str:
    """What a rank's training up to a step says while one rank cannot write its shards."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        train_run(ranks, *arguments, until=until)
    except TrainingError as error:
        return ranks.explain(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return "no error"


def test_a_full_disk_of_one_rank_ends_the_run_and_the_last_checkpoint_serves(
    tiny_recipe_file: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = (tiny_recipe_file, run, *KEYS)
    with RankPool(2) as pool:
        assert pool.run(2, _out_of_room, 7, -1, *arguments) == ["no error"] * 2
        for rank, said in enumerate(pool.run(2, _out_of_room, 30, 1, *arguments)):
            assert said.startswith(f"rank {rank}: TrainingError: checkpoint step 9 could not be")
            assert "rank 1: [Errno 27] File too large" in said
        assert max(checkpoints(run)) == 7
        assert pool.run(2, _out_of_room, 60, -1, *arguments) == ["no error"] * 2
    assert_as(run, alone)
