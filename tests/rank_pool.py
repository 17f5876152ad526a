"""Processes that train together in tests: started once, given a function after another."""

import multiprocessing
import os
import socket
import subprocess
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from puna.run_log import read_run_log
from puna.training import trainer as trainer_module
from puna.training.distributed import ALONE, Ranks, join, leave
from puna.training.recipe import read_recipe
from puna.training.trainer import Trainer
from puna.workflow.run_data import open_data

Work = Callable[..., Any]
ANSWER_SECONDS = 50


class RankPool:
    """Processes of which the first `size` become ranks for each call of `run`."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def run(
        self, size: int, work: Work, *arguments: Any, timeout: float = 20, **environment: str
    ) -> list[Any]:
        """What `work(ranks, *arguments)` returns on each rank, or the traceback's text of what it
        raised. timeout: of collectives, in seconds. environment: in place of what torchrun says
        where rank 0 keeps the store.
        """
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        for rank, pipe in enumerate(self._pipes[:size]):
            launched = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(size),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(size),
                "TORCHELASTIC_USE_AGENT_STORE": "False",
            }
            pipe.send((launched | environment, timeout, work, arguments))
        found = []
        for pipe in self._pipes[:size]:
            assert pipe.poll(ANSWER_SECONDS), "a rank did not answer"
            found.append(pipe.recv())
        return found


def _serve(pipe: Connection) -> None:
    trainer_module.measure_matmul_peak = lambda *_: 1e11  # type: ignore[assignment]
    while True:
        environment, timeout, work, arguments = pipe.recv()
        os.environ.update(environment)
        ranks = join(environment, "cpu", timedelta(seconds=timeout))
        try:
            pipe.send(work(ranks, *arguments))
        except Exception:
            pipe.send(traceback.format_exc())
        leave(ranks)


def train_run(
    ranks: Ranks, recipe: Path, run: Path, *overrides: str, until: int | None = None
) -> list[dict[str, Any]]:
    """The log of a run that these ranks train, continued where it is there, without what depends on
    the clock.
    """
    resolved = read_recipe(recipe, [f"run={run}", *overrides])
    trainer = Trainer(resolved, run, open_data(resolved, ranks).inputs, ranks=ranks)
    trainer.start(resume=(run / "recipe.yaml").exists())
    trainer.train(until=until)
    return untimed(run) if ranks.is_first else []


def train_alone(recipe: Path, run: Path, *overrides: str) -> list[dict[str, Any]]:
    """The same of this process alone."""
    return train_run(ALONE, recipe, run, *overrides)


def untimed(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    timed = ("seconds", "tokens_per_second", "mfu", "matmul_peak_gflops")
    return [
        {key: value for key, value in record.items() if key not in timed}
        for record in read_run_log(run / "metrics.jsonl")
    ]


def process_of(launcher: subprocess.Popen[str], rank: int) -> int:
    """The process that has this rank."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        for child in map(int, children):
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return child
        time.sleep(0.05)
    raise AssertionError(f"no rank {rank}")
