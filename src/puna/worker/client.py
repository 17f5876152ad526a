"""The front's end of the engine: an asyncio client of the process that computes. It knows ids and
events, and never imports torch.

One process holds all models. Whatever it does, this side keeps answering: requests wait in queues
of their own, so a reader that is slow delays nobody, and whether the process lives, and whether its
steps come to an end, is known here without asking it.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from puna.errors import PunaError, RequestError
from puna.inference.engine_config import EngineConfig
from puna.inference.engine_stats import EngineStats
from puna.inference.request import Event, Request
from puna.tokenizer.tokenizer import Tokenizer
from puna.worker.metrics import Metrics
from puna.worker.wire import (
    Add,
    Broken,
    Cancel,
    Cancelled,
    Close,
    Command,
    Dtype,
    LineSplitter,
    ModelSpec,
    Open,
    Opened,
    OpenedModel,
    Refused,
    Standing,
    Stepped,
    decode,
    encode,
)

COMMAND = (sys.executable, "-P", "-m", "puna.worker.process")
"""What becomes the engine's process, with the number of its socket as one more argument."""

CLOSE_SECONDS = 5.0
"""For the process to end by itself once it was told to, or has closed its socket; then it is
killed.
"""


class EngineStopped(PunaError):  # noqa: N818  (it is a state that the server is in)
    """The engine's process is not there any more, or could not load its models."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that requests can name. created: when its folder was written, in seconds since
    1970.
    """

    name: str
    tokenizer: Tokenizer
    context_length: int
    adapters: tuple[str, ...]
    created: int


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests are served, and why not. detail: a sentence for people."""

    ok: bool
    status: Literal["ok", "loading", "stuck", "dead", "draining"]
    detail: str = ""


class _Inbox:
    """The events of one request on their way to whoever asked."""

    def __init__(self, model: str, request: Request, now: float) -> None:
        self.model = model
        self.events: asyncio.Queue[Event | PunaError | None] = asyncio.Queue()
        # continuations of which more will come
        self.left = {0} if request.embed else set(range(request.options.n))
        self.cancelled: set[int] = set()
        self.latest = dict.fromkeys(self.left, now)
        self.begun: set[int] = set()


class EngineClient:
    """Models being served by a process of their own.

    models: what requests can name; filled once all are loaded. opened: what the process says of
    them. Not thread-safe: it belongs to the event loop that it was made in.
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
        self.opened: dict[str, OpenedModel] = {}
        self.metrics = metrics
        self._process, self._specs, self._options, self._hang_seconds = (
            process,
            specs,
            options,
            hang_seconds,
        )
        self._transport: asyncio.Transport
        self._inboxes: dict[str, _Inbox] = {}
        self._loaded: asyncio.Future[Opened] = loop.create_future()
        self._disconnected: asyncio.Future[None] = loop.create_future()
        self._stopped: asyncio.Future[str] = loop.create_future()
        self._watching = loop.create_task(self._watch())
        self._last_sign = time.monotonic()
        self._draining = self._closing = False
        self._last_words = ""

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
        shorter; the process gives a sign every second between steps. threads: of torch; left out,
        as many as torch takes.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for the front
            )
        client = cls(
            process, tuple(specs), options or EngineConfig(), hang_seconds, metrics or Metrics()
        )
        ours.setblocking(False)
        client._transport, _ = await asyncio.get_running_loop().create_unix_connection(
            lambda: _Connection(client), sock=ours
        )
        client._send(Open(client._specs, client._options, device, dtype, threads))
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
        """Continuations that run at once, of all models together."""
        return self._options.max_running * len(self._specs)

    async def ready(self) -> None:
        """Return once the models are loaded. Raises EngineStopped with the reason why they are not,
        or TokenizerError.
        """
        reading = [asyncio.to_thread(Tokenizer.load, spec.folder) for spec in self._specs]
        # while the process reads the weights
        tokenizers = asyncio.gather(*reading, return_exceptions=True)
        await asyncio.wait((self._loaded, self._stopped), return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            raise EngineStopped(self._stopped.result())
        self.opened = {model.name: model for model in self._loaded.result().models}
        for spec, tokenizer in zip(self._specs, await tokenizers, strict=True):
            if isinstance(tokenizer, BaseException):
                raise tokenizer
            opened, written = (
                self.opened[spec.name],
                (Path(spec.folder) / "config.json").stat().st_mtime,
            )
            self.models[spec.name] = ServedModel(
                spec.name, tokenizer, opened.context_length, opened.adapters, int(written)
            )

    async def generate(self, model: str, request: Request) -> AsyncGenerator[Event, None]:
        """The events of a request, until all its continuations have ended; the id must be no
        other's that is in progress.

        Leaving early cancels the request before the engine's next step: close the iterator
        (`contextlib.aclosing`) or cancel the task. Raises RequestError for what the engine refuses,
        EngineStopped where it is gone. Events never wait for their reader; there are at most as
        many as tokens were asked for.
        """
        if self._stopped.done():
            raise EngineStopped(self._stopped.result())
        assert model in self.models, f"{model} is not served"
        assert request.id not in self._inboxes, f"{request.id} is in progress already"
        inbox = self._inboxes[request.id] = _Inbox(model, request, time.monotonic())
        try:
            self._send(Add(model, request))
            while inbox.left or not inbox.events.empty():
                event = await inbox.events.get()
                if isinstance(event, PunaError):
                    raise event
                if event is not None and event.index not in inbox.cancelled:
                    yield event
        finally:
            self.cancel(request.id)
            del self._inboxes[request.id]

    def cancel(self, request: str, index: int | None = None) -> None:
        """End a request, or one continuation of it, as after a stop text; no event of it comes any
        more. An unknown one is no error.
        """
        inbox = self._inboxes.get(request)
        leaving = (
            set() if inbox is None else inbox.left & ({index} if index is not None else inbox.left)
        )
        if inbox is not None and leaving:
            inbox.left -= leaving
            inbox.cancelled |= leaving
            inbox.events.put_nowait(None)  # wakes whoever waits for an event that will not come
            self._send(Cancel(inbox.model, request, time.monotonic(), index))

    def health(self) -> Health:
        """Whether requests are served; costs nothing and asks nobody."""
        if self._stopped.done():
            return Health(False, "dead", self._stopped.result())
        if not self.models:
            return Health(False, "loading", "the models are being loaded")
        silent = time.monotonic() - self._last_sign
        if silent > self._hang_seconds:
            return Health(
                False, "stuck", f"the engine gave no sign of life for {silent:.0f} seconds"
            )
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
        end with EngineStopped.

        Closing twice is no error.
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
        await self._disconnected  # its last words have been read
        if self._closing:
            reason = "the server is closing"
        elif self._last_words:
            reason = self._last_words
        else:
            how = (
                f"was killed by {signal.Signals(-code).name}"
                if code < 0
                else f"ended with exit code {code}"
            )
            reason = f"the engine's process {how}; the server's log may say why"
        self._stopped.set_result(reason)
        for inbox in self._inboxes.values():
            inbox.events.put_nowait(EngineStopped(reason))

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
                case Standing() as standing:
                    self.metrics.standing(standing.model, standing.statistics)
                case Cancelled() as cancelled:
                    self.metrics.cancelled(cancelled.model, cancelled.steps)
                case Refused() as refused:
                    self._refuse(refused)
                case Opened() as opened:
                    for model in opened.models:  # counts are there from the beginning
                        self.metrics.standing(model.name, EngineStats())
                    self._loaded.set_result(opened)
                case Broken() as broken:
                    self._last_words = broken.message

    def _refuse(self, refused: Refused) -> None:
        inbox = self._inboxes.get(refused.request)
        if inbox is not None:
            inbox.left.clear()
            inbox.events.put_nowait(RequestError(refused.message))

    def _deliver(self, event: Event) -> None:
        inbox = self._inboxes.get(event.request)
        if inbox is None or event.index not in inbox.left:
            return  # it was cancelled while this was on its way
        now = self._last_sign
        if event.ids and event.index in inbox.begun:
            self.metrics.token_gap(inbox.model, now - inbox.latest[event.index], len(event.ids))
        elif event.ids:
            self.metrics.first_token(inbox.model, now - inbox.latest[event.index])
            inbox.begun.add(event.index)
        inbox.latest[event.index] = now
        if event.finish is not None:
            inbox.left.discard(event.index)
        inbox.events.put_nowait(event)


class _Connection(asyncio.Protocol):
    """Bytes from the process to lines."""

    def __init__(self, client: EngineClient) -> None:
        self._client, self._lines = client, LineSplitter()

    def data_received(self, data: bytes) -> None:
        self._client._take(self._lines.feed(data))

    def connection_lost(self, _error: Exception | None) -> None:
        self._client._lost()
