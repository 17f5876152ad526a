"""Lingering close middleware: reads on, into nothing, behind an answer that came before the end of
the request's body.

Such an answer (a 401, a 413, a 503) ends the connection, and closing one with bytes unread is a
reset. Node's fetch and Python's urllib then report a broken pipe instead of the answer: the reset
overtakes it, or they read nothing before all of their body is sent. nginx's `lingering_close` does
the same. Not here: what the parser rejects (connection.py).
"""

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.server.http_limits import HttpLimits
from puna.server.middleware.body_limit import has_body


class LingeringCloseMiddleware:
    """Sends such an answer at once, and ends it when the rest of the body has come: at most
    `dropped_bytes` of it, for at most `body_seconds`.
    """

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not has_body(scope):
            return await self._app(scope, receive, send)
        unread = True

        async def noted() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        async def lingering(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and unread:
                await send({**message, "more_body": True})  # whole: its length was declared
                await self._drop_the_rest(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return await self._app(scope, noted, lingering)

    async def _drop_the_rest(self, receive: Receive) -> None:
        left, more = self._limits.dropped_bytes, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.body_seconds):
                while more and left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    more = message.get("more_body", False)
