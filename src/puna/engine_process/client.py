"""The asyncio client of the engine process, in the API server. It knows ids and events, and never
imports torch.

One process holds all models. Whatever it does, this side keeps answering: each request has a queue
of its own, so a slow reader delays nobody, and health is known here without asking the process.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from puna.engine_process.messages import (
    Add,
    Cancel,
    Cancelled,
    Close,
    Command,
    Dtype,
    Fatal,
    LineSplitter,
    Load,
    ModelSpec,
    Ready,
    Rejected,
    Stats,
    Stepped,
    decode,
    encode,
)
from puna.engine_process.metrics import Metrics
from puna.engine_process.served_model import ServedModel, read_text_side
from puna.errors import PunaError, RequestError
from puna.inference.engine_config import EngineConfig
from puna.inference.engine_stats import EngineStats
from puna.inference.request import Event, Request

COMMAND = (sys.executable, "-P", "-m", "puna.engine_process.process")
"""The command of the engine process; the number of its socket is one more argument."""

CLOSE_SECONDS = 5.0
"""Time for the process to end by itself once it was told to, or has closed its socket; then it is
killed.
"""


class EngineStopped(PunaError):  # noqa: N818  (it is a state that the server is in)
    """The engine process has ended, or could not load its models."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the service. ok: requests are served. detail: the reason in a sentence."""

    ok: bool
    status: Literal["ok", "loading", "stuck", "dead", "draining"]
    detail: str = ""


class _RequestEvents:
    """The events of one request on their way to its reader."""

    def __init__(self, model: str, request: Request, now: float) -> None:
        self.model = model
        self.events: asyncio.Queue[Event | PunaError | None] = asyncio.Queue()
        # indices of the sequences that have not ended
        self.left = {0} if request.embed else set(range(request.options.n))
        self.cancelled: set[int] = set()
        self.latest = dict.fromkeys(self.left, now)
        self.begun: set[int] = set()


class EngineClient:
    """Models being served by a process of their own.

    models: by the names that requests use; filled once all are loaded. Not thread-safe: it belongs
    to the event loop that it was made in.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        specs: tuple[ModelSpec, ...],
        options: EngineConfig,
        hang_seconds: float,
        metrics: Metrics,
    ) -> None:
        """For `launch`, which starts the process and connects it."""
        loop = asyncio.get_running_loop()
        self.models: dict[str, ServedModel] = {}
        self.metrics = metrics
        self._process, self._specs = process, specs
        self._options, self._hang_seconds = options, hang_seconds
        self._transport: asyncio.Transport
        self._requests: dict[str, _RequestEvents] = {}
        self._loaded: asyncio.Future[Ready] = loop.create_future()
        self._disconnected: asyncio.Future[None] = loop.create_future()
        self._stopped: asyncio.Future[str] = loop.create_future()
        self._watching = loop.create_task(self._watch())
        self._last_sign = time.monotonic()
        self._draining = self._closing = False
        self._fatal = ""

    @classmethod
    async def launch(
        cls,
        specs: Sequence[ModelSpec],
        options: EngineConfig | None = None,
        *,
        device: str = "auto",
        dtype: Dtype | None = None,
        threads: int | None = None,
        hang_seconds: float = 8.0,
        metrics: Metrics | None = None,
    ) -> Self:
        """Start the process and return at once, while it loads the models; `ready` waits for that.

        hang_seconds: without a sign of life for so long, the engine counts as stuck. A step must be
        shorter; the process gives a sign every second between steps. threads: of a model's
        arithmetic; left out, one fewer than there are cores.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for the API server
            )
        options = options or EngineConfig()
        client = cls(process, tuple(specs), options, hang_seconds, metrics or Metrics())
        ours.setblocking(False)
        client._transport, _ = await asyncio.get_running_loop().create_unix_connection(
            lambda: _EngineSocket(client), sock=ours
        )
        client._send(Load(client._specs, client._options, device, dtype, threads))
        return client

    @classmethod
    async def start(
        cls, specs: Sequence[ModelSpec], options: EngineConfig | None = None, **settings: Any
    ) -> Self:
        """`launch`, then `ready`; nothing is left running where that fails."""
        client = await cls.launch(specs, options, **settings)
        try:
            await client.ready()
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def max_running(self) -> int:
        """Sequences that run at once, of all models together."""
        return self._options.max_running * len(self._specs)

    async def ready(self) -> None:
        """Return once the models are loaded. Raises EngineStopped with the reason if they cannot
        be, or TokenizerError or ConfigError.
        """
        # the tokenizers are read here while the process reads the weights
        reading = [asyncio.to_thread(read_text_side, spec) for spec in self._specs]
        sides = asyncio.gather(*reading, return_exceptions=True)
        await asyncio.wait((self._loaded, self._stopped), return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            raise EngineStopped(self._stopped.result())
        loaded = {model.name: model for model in self._loaded.result().models}
        models = {}
        for spec, side in zip(self._specs, await sides, strict=True):
            if isinstance(side, BaseException):
                raise side
            models[spec.name] = ServedModel(loaded[spec.name], side)
        self.models = models

    async def generate(self, model: str, request: Request) -> AsyncGenerator[Event, None]:
        """The events of a request, until all its sequences have ended; its id must differ from
        those in progress.

        Leaving early cancels the request before the engine's next step: close the iterator
        (`contextlib.aclosing`) or cancel the task. Raises RequestError where the engine rejects the
        request, EngineStopped where it is gone. Events never wait for their reader; there are at
        most as many as tokens were asked for.
        """
        if self._stopped.done():
            raise EngineStopped(self._stopped.result())
        assert model in self.models, f"{model} is not served"
        assert request.id not in self._requests, f"{request.id} is in progress already"
        self._requests[request.id] = waiting = _RequestEvents(model, request, time.monotonic())
        try:
            self._send(Add(model, request))
            while waiting.left or not waiting.events.empty():
                event = await waiting.events.get()
                if isinstance(event, PunaError):
                    raise event
                if event is not None and event.index not in waiting.cancelled:
                    yield event
        finally:
            self.cancel(request.id)
            del self._requests[request.id]

    def cancel(self, request: str, index: int | None = None) -> None:
        """End a request, or one sequence of it, as after a stop text; no event of it comes any
        more. An unknown one is no error.
        """
        waiting = self._requests.get(request)
        if waiting is None:
            return
        leaving = waiting.left if index is None else waiting.left & {index}
        if leaving:
            waiting.left -= leaving
            waiting.cancelled |= leaving
            waiting.events.put_nowait(None)  # wakes a reader of an event that will not come
            self._send(Cancel(waiting.model, request, time.monotonic(), index))

    def health(self) -> Health:
        """The state of the service; costs nothing and asks nobody."""
        if self._stopped.done():
            return Health(False, "dead", self._stopped.result())
        if not self.models:
            return Health(False, "loading", "the models are being loaded")
        silent = time.monotonic() - self._last_sign
        if silent > self._hang_seconds:
            detail = f"the engine gave no sign of life for {silent:.0f} seconds"
            return Health(False, "stuck", detail)
        if self._draining:
            return Health(False, "draining", "the server is about to end")
        return Health(True, "ok")

    def drain(self) -> None:
        """Let `health` say that the end is near; what is in progress goes on."""
        self._draining = True

    async def wait_until_stopped(self) -> str:
        """Return, with the reason, once the process has ended."""
        return await asyncio.shield(self._stopped)

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the process, by force where it does not end by itself in time. Requests in progress
        end with EngineStopped. Closing twice is no error.
        """
        self._closing = True
        if self._loaded.done() and not self._stopped.done():
            self._send(Close())
            await asyncio.wait((self._watching,), timeout=seconds)
        self._kill()
        await self._watching
        self._transport.close()

    def _send(self, command: Command) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode(command))

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _watch(self) -> None:
        """Wait for the end of the process, and tell everybody."""
        code = await self._process.wait()
        await self._disconnected  # a Fatal report has been read
        if self._closing:
            reason = "the server is closing"
        elif self._fatal:
            reason = self._fatal
        else:
            ended = f"ended with exit code {code}"
            if code < 0:
                ended = f"was killed by {signal.Signals(-code).name}"
            reason = f"the engine process {ended}; the server's log may say why"
        self._stopped.set_result(reason)
        for waiting in self._requests.values():
            waiting.events.put_nowait(EngineStopped(reason))

    def _lost(self) -> None:
        """The process closed its socket: it is ending, or is of no more use."""
        self._disconnected.set_result(None)
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._kill)

    def _take(self, lines: list[bytes]) -> None:
        self._last_sign = time.monotonic()
        for line in lines:
            match decode(line):
                case Stepped() as step:
                    if step.tokens:
                        self.metrics.stepped(step.model, step.seconds, step.tokens)
                    for event in step.events:
                        self._deliver(event)
                case Stats() as stats:
                    self.metrics.record_stats(stats.model, stats.statistics)
                case Cancelled() as cancelled:
                    self.metrics.cancelled(cancelled.model, cancelled.steps)
                case Rejected() as rejected:
                    self._reject(rejected)
                case Ready() as ready:
                    for model in ready.models:  # counts are there from the beginning
                        self.metrics.record_stats(model.name, EngineStats())
                    self._loaded.set_result(ready)
                case Fatal() as fatal:
                    self._fatal = fatal.message

    def _reject(self, rejected: Rejected) -> None:
        if (waiting := self._requests.get(rejected.request)) is not None:
            waiting.left.clear()
            waiting.events.put_nowait(RequestError(rejected.message))

    def _deliver(self, event: Event) -> None:
        waiting = self._requests.get(event.request)
        if waiting is None or event.index not in waiting.left:
            return  # it was cancelled while this was on its way
        now = self._last_sign
        if event.ids and event.index in waiting.begun:
            self.metrics.token_gap(waiting.model, now - waiting.latest[event.index], len(event.ids))
        elif event.ids:
            self.metrics.first_token(waiting.model, now - waiting.latest[event.index])
            waiting.begun.add(event.index)
        waiting.latest[event.index] = now
        if event.finish is not None:
            waiting.left.discard(event.index)
        waiting.events.put_nowait(event)


class _EngineSocket(asyncio.Protocol):
    """The bytes of the process, cut into lines for the client."""

    def __init__(self, client: EngineClient) -> None:
        self._client, self._lines = client, LineSplitter()

    def data_received(self, data: bytes) -> None:
        self._client._take(self._lines.feed(data))

    def connection_lost(self, _error: Exception | None) -> None:
        self._client._lost()
