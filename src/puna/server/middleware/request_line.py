"""Request line middleware: HEAD where GET is, and slashes that clients put in excess.

A base URL with a slash at its end makes `//v1/models` or `/v1//models` of a client's path, and some
clients end every path with one. They name what the same path names without them.
"""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLASHES = re.compile(r"/{2,}")


class RequestLineMiddleware:
    """Hands on a HEAD as a GET, and gives back its answer without the body; hands on a path with
    single slashes, and with none at its end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        if scope["method"] != "HEAD":
            return await self._app({**scope, "path": path}, receive, send)

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        return await self._app({**scope, "path": path, "method": "GET"}, receive, without_body)
