"""Answers while the caller listens: server-sent events, and whole answers whose caller may leave.

A caller who goes away ends the work, streamed or not. A stream's status is sent with its first
event, so what goes wrong before is an answer of its own; what goes wrong later is an event with
OpenAI's error, after which the stream ends without `[DONE]`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine
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
        begun = False
        try:
            async with asyncio.timeout(self._seconds), contextlib.aclosing(self._events) as events:
                async for event in events:
                    if not begun:
                        await send(
                            {
                                "type": "http.response.start",
                                "status": 200,
                                "headers": self.raw_headers,
                            }
                        )
                        begun = True
                    await send(_body(self.event(event)))
            last = self.end(None)
        except Exception as error:
            if isinstance(error, TimeoutError):
                error = ApiError(
                    504,
                    f"the answer took longer than {self._seconds:g} seconds and ends here",
                    code="timeout",
                )
            if not begun:
                raise error from None
            if as_api_error(error).code == "internal_error":
                log.exception("a stream ended early")
            last = self.end(as_api_error(error))
        await send({**_body(last), "more_body": False})


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
