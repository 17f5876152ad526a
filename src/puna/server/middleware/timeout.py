"""Timeout middleware: a bound on the time of a request, from its headers to the end of
its answer.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.server.http_error import CLOSE, send_error

ABORT = "puna.abort"
"""The ASGI extension that connection.py offers: a function that ends the connection, unread answer
or not.
"""


class TimeoutMiddleware:
    """Cuts a request that takes longer than `seconds`.

    One whose answer has not begun gets a 504. One whose answer has, as a stream that its reader
    stalls, loses its connection. One whose answer is complete keeps it.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request in time."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = complete = False

        async def watched(message: Message) -> None:
            nonlocal begun, complete
            begun = True
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if not limit.expired():  # it is one of the application's own
                raise
            if complete:
                return None
            if not begun:
                message = (
                    f"the answer took longer than {self._seconds:g} seconds, the most that this"
                    " server gives a request"
                )
                return await send_error(send, 504, message, "timeout", CLOSE)
            abort = scope.get("extensions", {}).get(ABORT)
            if abort is None:
                raise
            abort()
            while (await receive())["type"] != "http.disconnect":
                pass
        return None
