"""Studies whose runs are processes of their own: killed, interrupted, submitted to a cluster, with
the same results in the end.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_study import Here, found, write_study

from puna.cli.study import open_inputs
from puna.errors import ConfigError
from puna.study.cluster import ClusterExecutor
from puna.study.definition import read_study
from puna.study.job import Job
from puna.study.results import read_results
from puna.study.runner import run_study
from puna.training.checkpoint import checkpoints

LONGER = [
    "train.steps=60",
    "train.validate_every=30",
    "train.checkpoint_every=2",
    "optimizer.warmup_steps=1",
]
ARMS = {"one": LONGER, "still": [*LONGER, "optimizer.learning_rate=1e-9"]}


@pytest.fixture(scope="module")
def whole(tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of ARMS that nothing ends, run in this process."""
    folder = write_study(tmp_path_factory.mktemp("whole") / "study", tiny_recipe_file, arms=ARMS)
    for _ in run_study(read_study(folder), folder, open_inputs, Here()):
        pass
    return folder


def begin(folder: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        "from puna.cli.main import main; main()",
        "study",
        "run",
        str(folder),
        "--jobs",
        "2",
        "--threads",
        "1",
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "not within 200 seconds"
        time.sleep(0.002)


def alive(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_study_ended_in_every_way_ends_with_the_same_results(
    tiny_recipe_file: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed while its first runs train, interrupted while the next do: no run is done twice, and
    none is lost.
    """
    folder = write_study(tmp_path / "study", tiny_recipe_file, arms=ARMS)
    with begin(folder) as first:
        wait_until(lambda: len(checkpoints(Job("one", 3).folder(folder))) > 0, first)
        first.kill()
    assert read_results(folder) == []
    with begin(folder) as second:  # the runs of the first are still saving, or have just done so
        wait_until(
            lambda: (
                len(read_results(folder)) == 2
                and len(checkpoints(Job("one", 4).folder(folder))) > 0
            ),
            second,
        )
        done = (folder / "results.jsonl").read_bytes()
        os.killpg(second.pid, signal.SIGINT)
    assert second.returncode != 0
    with begin(folder) as third:
        wait_until(lambda: not alive(first.pid) and not alive(second.pid), third)
        output, errors = third.communicate(timeout=200)
    assert third.returncode == 0, errors
    assert "2 of 4 runs to do" in output
    assert (folder / "results.jsonl").read_bytes().startswith(done)
    assert found(folder) == found(whole)
    assert (folder / "REPORT.md").exists()


def test_jobs_of_a_cluster_give_the_same_results(
    tiny_recipe_file: Path, study_folder: Path, finished_study: Path
) -> None:
    """submitit's local executor: each run is a process of its own, started by a file in the study's
    folder.
    """
    executor = ClusterExecutor("local", study_folder, {"timeout_min": 5})
    for _ in run_study(read_study(study_folder), study_folder, open_inputs, executor):
        pass
    assert found(study_folder) == found(finished_study)


class Preempted(ClusterExecutor):
    """Asks its first job to leave the machine as soon as that has something to go on from."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        job = super().submit(function, *arguments)
        if (asked := arguments[1]) == Job("one", 3):
            while not checkpoints(asked.folder(arguments[3])):
                time.sleep(0.002)
            (task,) = psutil.Process(int(job.job_id)).children()  # type: ignore[attr-defined]
            task.send_signal(signal.SIGUSR2)
            self.preempted = job
        return job


def test_a_job_that_a_cluster_takes_back_goes_on(
    tiny_recipe_file: Path, whole: Path, tmp_path: Path
) -> None:
    """Put back into the queue, it ends with the results of a run that was left alone."""
    folder = write_study(tmp_path / "study", tiny_recipe_file, arms=ARMS)
    executor = Preempted("local", folder, {"timeout_min": 5})
    for _ in run_study(read_study(folder), folder, open_inputs, executor):
        pass
    assert "Requeued job" in executor.preempted.stdout()
    assert found(folder) == found(whole)


@pytest.mark.parametrize(
    ("cluster", "options", "reason"),
    [
        ("moon", {}, "moon"),
        ("local", {"colour": "red"}, "colour"),
        ("local", {"timeout_min": "long"}, "timeout_min"),
    ],
)
def test_a_cluster_or_an_option_that_is_not_known_is_named(
    cluster: str, options: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        ClusterExecutor(cluster, tmp_path, options)
