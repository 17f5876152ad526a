"""Answers while the caller listens: server-sent events, and whole answers whose caller may leave.

A caller who goes away ends the work, streamed or not. A stream's status is sent with its first
event, or after HEADERS_SECONDS if that takes longer: what goes wrong before is an answer of its
own with its status; what goes wrong later is an event with OpenAI's error, after which the stream
ends without `[DONE]`. Clients and proxies that give up on silence hear a comment of server-sent
events, which clients skip, every HEARTBEAT_SECONDS without an event.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from typing import Any, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puna.api.error_response import ApiError, as_api_error
from puna.api.responses import Answer

T = TypeVar("T")
A = TypeVar("A", bound=Answer)

SHARE_OF_THE_TIME = 0.95
"""Part of a request's time after which a stream is told that it is over, before the connection is
cut (server/middleware/timeout.py).
"""

HEADERS_SECONDS = 1.0
"""Time of a stream for a first event, or an error with a status, before its headers are sent."""

HEARTBEAT_SECONDS = 5.0
"""Silence of a begun stream before it is broken by a comment. Proxies wait for 60 seconds and more
(nginx, cloud load balancers), impatient clients for 10.
"""

log = logging.getLogger("puna.server")


class CallerGoneError(Exception):
    """Nobody is left to read the answer."""


async def while_listening(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the caller goes away first; then raises
    CallerGoneError.
    """
    working, watching = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerGoneError
        return working.result()
    finally:
        await _end(working)
        await _end(watching)


class WholeAnswer(Response):
    """An answer that is made while the caller listens, and sent at once."""

    media_type = "application/json"

    def __init__(self, work: Awaitable[Answer]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make and send it."""
        with contextlib.suppress(CallerGoneError):
            answer = await while_listening(receive, _awaited(self._work))
            await Response(answer.to_json(), media_type=self.media_type)(scope, receive, send)


class EventStream(Response, Generic[A]):
    """Server-sent events, one for each answer that `events` gives, and `[DONE]`. seconds: the time
    of a request.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[A], seconds: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._seconds = events, seconds * SHARE_OF_THE_TIME

    def event(self, answer: A) -> bytes:
        """An answer on the wire."""
        return b"data: " + answer.to_json() + b"\n\n"

    def end(self, error: ApiError | None) -> bytes:
        """The last of the stream on the wire. error: the reason, if it ends early."""
        return b"data: " + (error.body().to_json() if error else b"[DONE]") + b"\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (ASGI's)
        """Send the stream, or raise the exception that came instead of its first event."""
        with contextlib.suppress(CallerGoneError):
            await while_listening(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        wire = _Wire(send, self.raw_headers)
        try:
            async with (
                asyncio.timeout(self._seconds),
                wire.beating(),
                contextlib.aclosing(self._events) as events,
            ):
                async for event in events:
                    await wire.write(_body(self.event(event)))
            last = self.end(None)
        except Exception as error:
            if isinstance(error, TimeoutError):
                error = ApiError(
                    504,
                    f"the answer took longer than {self._seconds:g} seconds and ends here",
                    code="timeout",
                )
            if not wire.begun:
                raise error from None
            if as_api_error(error).code == "internal_error":
                log.exception("a stream ended early")
            last = self.end(as_api_error(error))
        await wire.write({**_body(last), "more_body": False})


class _Wire:
    """The way of a stream to its reader: the headers before the first message, and comments in
    silence. begun: the headers are sent.
    """

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send, self._headers = send, headers
        self._lock, self._written = asyncio.Lock(), 0.0
        self.begun = False

    async def write(self, message: dict[str, Any]) -> None:
        """Send a part of the body."""
        async with self._lock:
            if not self.begun:
                start = {"type": "http.response.start", "status": 200, "headers": self._headers}
                await self._send(start)
                self.begun = True
            await self._send(message)
            self._written = asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Break silence while the block runs."""
        beat = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            await _end(beat)

    async def _beat(self) -> None:
        await asyncio.sleep(HEADERS_SECONDS)
        if not self.begun:
            await self.write(_COMMENT)
        while True:
            silent = asyncio.get_running_loop().time() - self._written
            if silent >= HEARTBEAT_SECONDS:
                await self.write(_COMMENT)
            else:
                await asyncio.sleep(HEARTBEAT_SECONDS - silent)


_COMMENT = {"type": "http.response.body", "body": b": waiting\n\n", "more_body": True}


def _body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # read, so that asyncio does not report it as never retrieved
