"""The engine process, which owns the models: loads them, steps their engines in turn, and takes
commands between steps.

Torch is imported for a model that PyTorch runs, or that is packed for the native core.

Run as `python -m puna.engine_process.process FD`, where FD is one end of a pair of sockets;
client.py does, and holds the other. It speaks messages.py and nothing else. It ends when it is told
to, when the other end is closed (so an API server that was killed leaves nothing behind, even if a
step hangs), or when the engine cannot go on. SIGINT and SIGTERM are for the API server, which
drains; here they are ignored.

Cost, measured on one core beside a step's milliseconds: looking for commands and reporting take
0.02 ms a step with one sequence, 0.22 ms with 64.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from puna.engine_process.messages import (
    Add,
    Cancel,
    Cancelled,
    Close,
    Dtype,
    Fatal,
    Heartbeat,
    LineSplitter,
    Load,
    LoadedModel,
    Ready,
    Rejected,
    Report,
    Stats,
    Stepped,
    decode,
    encode,
)
from puna.errors import PunaError, RequestError
from puna.host import physical_processors, processors
from puna.inference.request import Event
from puna.spinning import limit_spinning

if TYPE_CHECKING:
    import torch

    from puna.inference.engine import Engine

HEARTBEAT_SECONDS = 1.0
STATS_SECONDS = 0.2
FAILURES_IN_A_ROW = 3
"""Failed steps in a row after which an engine is given up: the cause, such as a lost device, is not
in a request.
"""

log = logging.getLogger("puna.server")


class Channel:
    """The engine process's end of the sockets. Reading never blocks but for a given `timeout`;
    writing waits for the API server to read.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines = connection, LineSplitter()
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self.last_sent = 0.0

    def receive(self, timeout: float = 0.0) -> list[Any]:
        """The commands that are there, after up to `timeout` seconds of waiting for one. Raises
        EOFError where the API server has gone.
        """
        if timeout:
            self._readable.poll(timeout * 1000)
        commands: list[Any] = []
        while True:
            try:
                data = self._connection.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return commands
            except OSError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            commands += map(decode, self._lines.feed(data))

    def send(self, report: Report) -> None:
        """Send one report. Raises EOFError where the API server has gone."""
        try:
            self._connection.sendall(encode(report))
        except OSError as error:
            raise EOFError from error
        self.last_sent = time.monotonic()


class EngineHost:
    """Some engines, by the names of their models, between commands and reports."""

    def __init__(self, channel: Channel, engines: "Mapping[str, Engine]") -> None:
        self._channel, self._engines = channel, engines
        # when steps began
        self._begun: dict[str, deque[float]] = {name: deque(maxlen=1000) for name in engines}
        self._failures = dict.fromkeys(engines, 0)
        self._reported = 0.0
        self._changed: set[str] = set(engines)

    def run(self) -> None:
        """Serve until a Close or the end of the API server. Raises the exception of an engine that
        cannot go on.
        """
        try:
            while self._serve_once():
                pass
        except EOFError:
            return

    def _serve_once(self) -> bool:
        if not self._take_commands(self._patience()):
            return False
        for name, engine in self._engines.items():
            if engine.busy:
                self._step(name, engine)
                if not self._take_commands():
                    return False
        now = time.monotonic()
        if self._changed and now - self._reported >= STATS_SECONDS:
            self._report_stats(now)
        if now - self._channel.last_sent >= HEARTBEAT_SECONDS:
            self._channel.send(Heartbeat())
        return True

    def _patience(self) -> float:
        """Seconds to wait for a command: none while there is work."""
        if any(engine.busy for engine in self._engines.values()):
            return 0.0
        return STATS_SECONDS if self._changed else HEARTBEAT_SECONDS

    def _take_commands(self, timeout: float = 0.0) -> bool:
        """Carry out the commands that are there; False after a Close."""
        for command in self._channel.receive(timeout):
            match command:
                case Add():
                    self._add(command)
                case Cancel():
                    self._cancel(command)
                case Close():
                    return False
        return True

    def _add(self, command: Add) -> None:
        engine, request = self._engines[command.model], command.request
        try:
            engine.add(request)
        except RequestError as error:
            self._channel.send(Rejected(request.id, str(error)))
        except Exception:
            log.exception("the engine of %s failed to take a request in", command.model)
            engine.cancel(request.id)
            message = "the engine failed to take this request in; the server's log says why"
            events = tuple(
                Event(request.id, index, finish="error", message=message)
                for index in range(request.options.n)
            )
            self._channel.send(Stepped(command.model, 0.0, 0, events))

    def _cancel(self, command: Cancel) -> None:
        engine = self._engines[command.model]
        before = engine.statistics().cancelled
        engine.cancel(command.request, command.index)
        left = engine.statistics().cancelled - before
        if left:
            late = sum(begun > command.asked for begun in self._begun[command.model])
            self._channel.send(Cancelled(command.model, left, late))
            self._changed.add(command.model)

    def _step(self, name: str, engine: "Engine") -> None:
        begun = time.monotonic()
        if begun - self._channel.last_sent >= STATS_SECONDS:
            # a client that watches for a hung step counts from the step's beginning
            self._channel.send(Heartbeat())
        self._begun[name].append(begun)
        self._changed.add(name)
        try:
            events = engine.step()
            self._failures[name] = 0
        except Exception:
            self._failures[name] += 1
            if self._failures[name] == FAILURES_IN_A_ROW:
                raise
            log.exception("a step of %s failed", name)
            events = engine.fail("the engine failed in a step; the server's log says why")
        self._channel.send(
            Stepped(name, time.monotonic() - begun, engine.statistics().batch_tokens, tuple(events))
        )

    def _report_stats(self, now: float) -> None:
        for name in self._changed:
            self._channel.send(Stats(name, self._engines[name].statistics()))
        self._changed.clear()
        self._reported = now


def default_threads(own: int, cores: int) -> int:
    """Threads of a model's arithmetic where none were asked for: one fewer than there are cores,
    and no more than there are of `own` (physical cores, or OMP_NUM_THREADS); at least one.

    All threads of a product wait for the slowest of them, so with one on every core a single busy
    neighbour delays each product. Measured on 2 cores with 8 streams of a small model: beside one
    busy process 242 to 285 tokens a second with 2 threads, 603 to 817 with 1; alone, the second
    thread gains 8% at best.
    """
    return max(1, min(own, cores - 1))


def load_engines(command: Load) -> "tuple[dict[str, Engine], tuple[LoadedModel, ...]]":
    """Load the models to serve. Raises PunaError, or any exception of torch, as where there is too
    little memory.
    """
    from puna.inference.language_model import load

    cores = processors()
    threads = command.threads or default_threads(physical_processors() or cores, cores)
    options = command.options.model_copy(update={"threads": threads})
    dtype = None if command.dtype is None else torch_dtype(command.dtype)
    engines: dict[str, Engine] = {}
    loaded_models = []
    for spec in command.models:
        loaded = load(
            spec.folder,
            command.device,
            dtype,
            options,
            spec.adapters,
            generation_config=False,  # requests come with all their options
        )
        engines[spec.name] = loaded.engine
        loaded.constraints.prepare()  # now, since it would hold up all requests later
        executor, (device, dtype_name) = loaded.engine.executor, loaded.placement
        loaded_models.append(
            LoadedModel(
                spec.name,
                executor.context_length,
                tuple(sorted(spec.adapters)),
                executor.num_blocks * executor.block_size,
                device,
                dtype_name,
            )
        )
    return engines, tuple(loaded_models)


def torch_dtype(name: Dtype) -> "torch.dtype":
    """PyTorch's dtype of this name."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def main() -> None:
    """Serve the socket whose number is the only argument; exit code 1 where the engine could not go
    on.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    limit_spinning()
    connection = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(
        target=_end_with_the_api_server, args=(connection.fileno(),), daemon=True
    ).start()
    channel = Channel(connection)
    try:
        (command,) = channel.receive(timeout=60.0)
        engines, models = load_engines(command)
        channel.send(Ready(models))
        EngineHost(channel, engines).run()
    except PunaError as error:
        channel.send(Fatal(str(error)))
        sys.exit(1)
    except Exception as error:
        channel.send(Fatal(f"{type(error).__name__}: {error}"))
        raise


def _end_with_the_api_server(descriptor: int) -> None:
    """Wait, for as long as it takes, until the other end of the sockets is closed; then end the
    process, even amid a step.
    """
    gone = select.poll()
    gone.register(descriptor, 0)  # a hang-up is always reported
    gone.poll()
    os._exit(1)


if __name__ == "__main__":
    main()
