"""Tasks on processes of this machine, or in this one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from puna.data.encode import start_worker
from puna.errors import DataError
from puna.spawn import SpawnedPool

Task = TypeVar("Task")
Result = TypeVar("Result")


class TaskExecutor(Protocol):
    """Something that does tasks: `local_processes` or `ray_cluster.py`."""

    def __call__(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield `function(task)` of each task, in the order in which they end. Raises what the
        function does.
        """


def local_processes(workers: int) -> TaskExecutor:
    """Tasks on so many processes; 1 is this one."""

    def execute(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        if workers == 1 or len(tasks) < 2:
            yield from map(function, tasks)
            return
        with SpawnedPool(min(workers, len(tasks)), start_worker) as pool:
            try:
                for future in as_completed([pool.submit(function, task) for task in tasks]):
                    yield future.result()
            except BrokenProcessPool as error:
                raise DataError(
                    f"one of {workers} processes was ended, most likely for want of memory; use"
                    " fewer workers and run the same again, which continues"
                ) from error

    return execute
