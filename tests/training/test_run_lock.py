"""Two processes on one run folder: the second is rejected, until the first has ended in any way."""

import subprocess
import sys
from pathlib import Path

import pytest
from said import said

from puna.errors import TrainingError
from puna.training.run_lock import lock_run

HOLD = """
import sys, time
from pathlib import Path
from puna.training.run_lock import lock_run
lock = lock_run(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


def test_a_run_is_one_processs_until_that_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(TrainingError, match=said(f"{run} is in use ... wait ... run=OTHER")):
            lock_run(run)
        process.kill()
    assert lock_run(run).is_locked


def test_within_a_process_trainers_may_follow_one_another(tmp_path: Path) -> None:
    first = lock_run(tmp_path)
    second = lock_run(tmp_path)
    assert first.is_locked
    assert second.is_locked
