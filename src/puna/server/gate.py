"""The way in: closed while the models are loading, the engine is stuck or the server drains, and no
way to stay for ever.

The outermost ASGI layer; it counts what is in progress, so that draining knows when to end. Not
here: how many may come in (api/limits.py).
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.api.refusal import CLOSE, refuse
from puna.engine_process.client import Health

ALWAYS_OPEN = frozenset({"/health", "/metrics"})
ABORT = "puna.abort"
"""The ASGI extension that connection.py offers: a function that ends the connection, unread answer
or not.
"""


class Gate:
    """Passes requests on while `health` says ok, else answers 503; cuts one that takes longer than
    `seconds`.

    One whose answer has not begun gets a 504. One that has, as a stream whose reader stalls, loses
    its connection.
    """

    def __init__(self, app: ASGIApp, health: Callable[[], Health], seconds: float) -> None:
        self._app, self._health, self._seconds = app, health, seconds
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_progress(self) -> int:
        """Requests whose answers are not complete."""
        return self._in_progress

    async def wait_until_idle(self) -> None:
        """Return once nothing is in progress."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say no."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        health = self._health()
        if not (health.ok or scope["path"] in ALWAYS_OPEN):
            message = f"the server takes no requests now: {health.detail}"
            return await refuse(send, 503, message, health.status, ((b"retry-after", b"5"), *CLOSE))
        self._in_progress += 1
        self._idle.clear()
        try:
            await self._serve(scope, receive, send)
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._idle.set()
        return None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if not limit.expired():
                raise
            if not begun:
                message = (
                    f"the answer took longer than {self._seconds:g} seconds, the most that this"
                    " server gives a request"
                )
                return await refuse(send, 504, message, "timeout", CLOSE)
            abort = scope.get("extensions", {}).get(ABORT)
            if abort is None:
                raise
            abort()
            while (await receive())["type"] != "http.disconnect":
                pass
        return None
