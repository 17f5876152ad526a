"""Waiting threads of torch: how long one polls ("spins") before it gives up its core.

The threads of an operation meet at barriers, and one that is early polls until the last one is
there. On a quiet machine that is the fastest way to wait. Where another program has the core of
that last one, polling keeps a core busy for nothing, for up to a whole time slice at each of a
step's hundreds of barriers. So what is right depends on the machine's load, which changes.

libgomp, torch's OpenMP library on Linux, reads its settings once. But it polls 100 times in place
of 300,000 while there are more OpenMP threads than cores (GNU libgomp manual, GOMP_SPINCOUNT). So
while threads of this process wait for a core, a second team of threads is kept asleep.

Fewer threads that compute would help further beside busy programs, and are not chosen by load: sums
are split by threads, so results depend in their last digits on how many there are (with 3 in place
of 2, 36 of the 38 tensors of `puna-2m` differ after six steps), and a resumed run would not be
exact.
"""

import ctypes
import os
import time
from functools import cache
from pathlib import Path
from threading import Event, Thread

from puna.host import processors

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait, to libgomp and to Intel's and LLVM's OpenMP."""

PERIOD = 0.5
"""Seconds between two looks at how long threads waited for a core."""

CROWDED = 0.2
"""Share of a period that one thread waits for a core, above which threads poll little. On two cores
both threads together waited 0.02 to 0.14 with nothing else running, 0.7 beside one busy program.
"""

_THREADS = Path("/proc/self/task")


@cache
def limit_spinning() -> None:
    """From now on let threads poll little while this process has to share its cores; with
    `SETTINGS` in the environment, and off Linux, nothing is done. Once a process; needs no torch.
    """
    if any(name in os.environ for name in SETTINGS) or not _seconds_waited():
        return
    Thread(target=_watch, name="spin limit", daemon=True).start()


def _watch() -> None:
    libraries = ctypes.CDLL(None)  # all that this process has loaded, when it is asked
    waited, since = _seconds_waited(), time.monotonic()
    quiet: Event | None = None  # while threads poll little: set to end that
    while True:
        time.sleep(PERIOD)
        if not hasattr(libraries, "GOMP_parallel"):  # torch has not come
            continue
        before, begin = waited, since
        waited, since = _seconds_waited(), time.monotonic()
        longest = max((now - before.get(thread, now) for thread, now in waited.items()), default=0)
        crowded = longest > CROWDED * (since - begin)
        if crowded and quiet is None:
            quiet = Event()
            held = Thread(target=_hold_team, args=(libraries, quiet), daemon=True)
            held.name = "spin limit team"
            held.start()
        elif quiet is not None and not crowded:
            quiet.set()
            quiet = None


def _hold_team(libraries: ctypes.CDLL, released: Event) -> None:
    """Have a second team of as many OpenMP threads as there are cores, asleep, until `released`:
    it belongs to the thread that runs this, and ends with it.
    """
    # each thread of the team runs free(NULL), which does nothing
    libraries.GOMP_parallel(libraries.free, None, processors(), 0)
    released.wait()


def _seconds_waited() -> dict[str, float]:
    """By thread of this process, how long it was ready to run and had no core since it began;
    empty where the system does not say.
    """
    found = {}
    for folder in _THREADS.iterdir() if _THREADS.is_dir() else ():
        try:
            _, nanoseconds, _ = (folder / "schedstat").read_text(encoding="ascii").split()
        except OSError:  # the thread has ended, or the kernel was built without
            continue
        found[folder.name] = int(nanoseconds) / 1e9
    return found
