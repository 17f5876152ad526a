"""The lock of a run folder, which keeps two processes from training in it at once.

The operating system holds it for the process and frees it when that ends, however it ends: a file
that a kill leaves behind locks nothing.
"""

from pathlib import Path

from filelock import FileLock, Timeout

from puna.errors import TrainingError


def lock_run(run: Path) -> FileLock:
    """Take the run folder for this process, and make it where it is missing; it is free again once
    what is returned has gone. Raises TrainingError where another process, or another thread of this
    one, has it.
    """
    run.mkdir(parents=True, exist_ok=True)
    # a singleton: trainers that follow one another in a process share what the process holds
    lock = FileLock(run / "run.lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            f"{run} is in use: another process trains there, and two would overwrite each other's"
            " checkpoints; wait until it has ended, or start another run with run=OTHER"
        ) from error
    return lock
