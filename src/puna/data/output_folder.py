"""The folder that one process at a time writes its output into."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.errors import DataError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing_folder(out: Path) -> Iterator[None]:
    """Make `out` and keep it to this process; a disk that is full or not writable becomes a
    DataError.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
        try:
            # the kernel lets go of it however this process ends
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in out.glob(".*.partial"):
                leftover.unlink()
            yield
        finally:
            os.close(descriptor)
    except BlockingIOError as error:
        raise DataError(
            f"another process is writing to {out}; wait for it, or give another folder"
        ) from error
    except OSError as error:
        remedy = (
            "free some space"
            if error.errno in _NO_SPACE
            else "make it a folder that can be written to"
        )
        raise DataError(
            f"cannot write to {out}: {error.strerror}; {remedy} and run the same again, which"
            " continues"
        ) from error
