"""Tasks on a Ray cluster, by Ray Data: the same functions and tasks as on the processes of one
machine, and so the same bytes.

Every machine of the cluster sees the folders of the recipe under the same paths, and has the same
version of Puna. A task of a machine that was lost is done again by Ray: it writes its files anew
under the same names.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from puna.corpus.extra_packages import import_extra
from puna.corpus.local_processes import TaskExecutor
from puna.errors import DataError, PunaError


def ray_cluster(address: str | None) -> TaskExecutor:
    """Tasks on the cluster at `address`, such as auto or ray://HOST:10001; None begins one on this
    machine. Raises DataError where Ray is not installed or nobody answers.
    """
    ray = import_extra("ray", "ray", "puna data prepare --ray")
    data = import_extra("ray.data", "ray", "puna data prepare --ray")
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError) as error:
            raise DataError(
                f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`,"
                " or leave the address out"
            ) from error
    data.DataContext.get_current().enable_progress_bars = False
    for logger in ("ray.data", "ray.data._internal"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # the progress line is Puna's

    def execute(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        if not tasks:
            return
        rows = [{"task": pickle.dumps((function, task))} for task in tasks]
        # a block a task, so that each is scheduled for itself
        results = data.from_items(rows, override_num_blocks=len(rows)).map(_do)
        for row in results.iter_rows():
            if row["error"]:
                raise pickle.loads(row["error"])
            yield row["result"]

    return execute


def _do(row: dict[str, Any]) -> dict[str, Any]:
    """Do one task on a machine of the cluster. The bytes come from this program's own driver. An
    error that the user can mend goes back as a result, because Ray would bury it in its own.
    """
    function, task = pickle.loads(row["task"])
    try:
        return {"result": function(task), "error": b""}
    except PunaError as error:
        return {"result": 0, "error": pickle.dumps(error)}
