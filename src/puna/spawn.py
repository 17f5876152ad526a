"""Pools of processes that are started afresh (`spawn`), and the script that such processes run
again by mistake.

A fork would copy a process whose threads (torch's, the tokenizer's) are in the middle of something.
A fresh process instead runs the user's script from its beginning, to have its functions: all but
what stands under `if __name__ == "__main__":`.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Any

from puna.errors import PunaError

NO_MAIN_GUARD = (
    "a new process ended before its work began. Every new process runs this script from its"
    ' beginning: put what the script does under `if __name__ == "__main__":`'
)


class SpawnedPool(ProcessPoolExecutor):
    """A pool to be used as a context manager; leaving it cancels what has not begun and waits for
    the rest.

    initializer: called with `initargs` once in each process. max_tasks_per_child: calls after which
    a process is replaced; left out, never. Leaving with an error raises PunaError instead if no
    process lived to be initialised: the script has no main guard.
    """

    def __init__(
        self,
        processes: int,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        require_main_guard()
        context = multiprocessing.get_context("spawn")
        self._started = context.Event()
        super().__init__(
            processes,
            context,
            _initialise,
            (self._started, initializer, initargs),
            max_tasks_per_child=max_tasks_per_child,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown(wait=True, cancel_futures=True)
        # the pool's own error, or the cause of one that a caller made of it
        broken = error if isinstance(error, BrokenProcessPool) else error and error.__cause__
        if isinstance(broken, BrokenProcessPool) and not self._started.is_set():
            raise PunaError(NO_MAIN_GUARD) from broken


def require_main_guard() -> None:
    """Raise PunaError in a process that is still running the script of the one that started it: in
    such a process the caller must not begin the whole work once more.
    """
    # the flag that multiprocessing itself looks at before it starts a process
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise PunaError(NO_MAIN_GUARD)


def _initialise(
    started: Event, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> None:
    started.set()
    if initializer is not None:
        initializer(*initargs)
