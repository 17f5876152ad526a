"""Processes of `puna train`: launched on this host, or joined where torchrun launched them.

A rank that fails ends at once, without waiting for threads or connections that its peers may never
answer; torchrun then ends the others, or starts all of them again.
"""

import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from puna.training.distributed import Ranks


def launch(arguments: Sequence[str], processes: int, restarts: int, timeout: float) -> None:
    """Run `puna` with these arguments in so many processes that know of each other, as torchrun
    does. After a failure all are started again, up to `restarts` times.

    timeout: seconds that a process has after a signal, to save. Exits with 1 and the rank that
    failed first, or with 128 + a signal's number.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # as many threads in each as make one a core of them all
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(ceil(timeout)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=restarts,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "puna", *arguments)
    except ChildFailedError as error:
        sys.exit(f"error: {_first_failure(error)}")
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None


def _first_failure(error: "ChildFailedError") -> str:
    rank, failure = error.get_first_failure()
    killed = failure.exitcode < 0
    how = failure.signal_name() if killed else "the reason above"
    when = "" if killed else " once that is mended"
    return (
        f"of the processes rank {rank} (process {failure.pid}) failed first, with {how}; the same"
        f" command with --resume goes on from the last checkpoint{when}"
    )


def restarted(environment: Mapping[str, str]) -> bool:
    """True where torchrun started this process again after a failure on its host."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextmanager
def joined(environment: Mapping[str, str], device: str, timeout: float) -> Iterator["Ranks"]:
    """The ranks that this process belongs to, as `puna.training.distributed.join`, left at the end.

    timeout: seconds. What is raised among several ranks is said with its rank and ends the process.
    """
    from puna.training.distributed import ALONE, join, leave

    ranks = ALONE
    try:
        ranks = join(environment, device, timedelta(seconds=timeout))
        yield ranks
    except Exception as error:
        if environment.get("WORLD_SIZE", "1") == "1":
            raise
        reason = f"rank {environment['RANK']}: {error}" if ranks is ALONE else ranks.explain(error)
        print(f"error: {reason}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)
    leave(ranks)
