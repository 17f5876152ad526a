"""Body limit middleware: reads a request's body before the application sees any of it, within
bounds of size, time and nesting.

Not here: the contents of the body (api/protocol.py).
"""

import asyncio
import re

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.server.auth import header
from puna.server.http_error import CLOSE, send_error
from puna.server.http_limits import HttpLimits


class BodyLimitMiddleware:
    """Gives the application a body as one message, or answers 413, 408 or 400. Bytes beyond the
    limit are never kept.
    """

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer with an error."""
        if scope["type"] != "http" or not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
        ):
            return await self._app(scope, receive, send)
        limits = self._limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await self._read(scope, receive)
        except _TooLargeError:
            message = (
                f"the body has more than {limits.body_bytes} bytes, the most that this server"
                " reads: send less at once"
            )
            return await send_error(send, 413, message, "body_too_large", CLOSE)
        except TimeoutError:
            return await send_error(
                send,
                408,
                f"the body did not arrive within {limits.body_seconds:g} seconds",
                "timeout",
                CLOSE,
            )
        if body is None:
            return None
        if json_depth(body) > limits.json_depth:
            return await send_error(
                send,
                400,
                f"the body nests more than {limits.json_depth} brackets: flatten it",
                "json_too_deep",
            )
        return await self._app(scope, _Replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None where the caller has gone."""
        declared = header(scope, b"content-length") or b""
        # Python reads no endless numbers
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._limits.body_bytes):
            raise _TooLargeError
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._limits.body_bytes:
                raise _TooLargeError
        return b"".join(parts)


class _TooLargeError(Exception):
    """A body beyond the limit."""


class _Replay:
    """An ASGI `receive` that gives a body already read, and then the messages of the connection."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NESTING = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
"""The change of depth at each byte, as int8."""


def json_depth(body: bytes) -> int:
    """The most brackets that are open at once, outside strings: linear in the body, which need not
    be valid JSON.
    """
    # Without its strings, a body becomes +1 for each opening bracket, -1 for each closing one and 0
    # for the rest; the depth at a byte is the sum up to it. 255 read as int8 is -1.
    steps = np.frombuffer(_STRING.sub(b"", body).translate(_NESTING), dtype=np.int8)
    return int(steps.cumsum(dtype=np.int64).max(initial=0))
