"""Readiness middleware: a 503 while the models are loading, the engine is stuck, or the server
drains.

The outermost layer. It counts the requests in progress, so that draining knows when to end. Not
here: admission control (api/limits.py).
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.engine_process.client import Health
from puna.server.http_error import CLOSE, send_error

ALWAYS_OPEN = frozenset({"/health", "/metrics"})


class ReadinessMiddleware:
    """Passes requests on while `health` says ok."""

    def __init__(self, app: ASGIApp, health: Callable[[], Health]) -> None:
        self._app, self._health = app, health
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_progress(self) -> int:
        """The number of requests whose answers are not complete."""
        return self._in_progress

    async def wait_until_idle(self) -> None:
        """Return once nothing is in progress."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 503."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        health = self._health()
        if not (health.ok or scope["path"] in ALWAYS_OPEN):
            message = f"the server takes no requests now: {health.detail}"
            headers = ((b"retry-after", b"5"), *CLOSE)
            return await send_error(send, 503, message, health.status, headers)
        self._in_progress += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._idle.set()
        return None
