"""`puna serve` as processes to be looked at from outside: what they hold, and what they say of
themselves.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from raw_http import ask

COMMAND = (sys.executable, "-c", "from puna.cli.main import main; main()", "serve")


@dataclass(frozen=True)
class Held:
    """What a process holds. connections: open ones, without the socket that listens. memory:
    resident, in bytes.
    """

    threads: int
    files: int
    connections: int
    memory: int

    @classmethod
    def by(cls, process: psutil.Process) -> "Held":
        tcp = [
            one for one in process.net_connections(kind="tcp") if one.status != psutil.CONN_LISTEN
        ]
        return cls(process.num_threads(), process.num_fds(), len(tcp), process.memory_info().rss)


class ServerProcess:
    """A started server. log: what it wrote to standard error."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: IO[str]) -> None:
        self._process, self.port, self._log = process, port, log
        self.api_server = psutil.Process(process.pid)
        (self.engine,) = self.api_server.children()

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    async def metrics(self) -> dict[str, float]:
        """The figures of /metrics by their names with labels, as in
        `puna_sequences_running{model="tiny"}`.
        """
        page = (await ask(self.port, "GET", "/metrics")).body.decode("utf-8")
        lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def end(self) -> int:
        """Ask it to end, and wait: the exit code."""
        self._process.terminate()
        return self._process.wait(60)


@contextlib.contextmanager
def served(model: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Serve a model folder on a free port, with one thread; nothing of it is left in the end."""
    command = (*COMMAND, str(model), "--port", "0", "--device", "cpu", "--threads", "1", *arguments)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            port = re.search(r" at http://127\.0\.0\.1:(\d+) ", announced)
            assert port, announced
            process.stdout.readline()
            yield ServerProcess(process, int(port[1]), log)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
