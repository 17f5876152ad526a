"""A request's body, read before the application sees any of it: not more than the limit, not for
longer, not nested deeper.

An ASGI layer. Not here: what the body says (api/protocol.py).
"""

import asyncio
import re

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.api.limits import Limits
from puna.api.refusal import CLOSE, refuse
from puna.server.auth import header


class BodyLimit:
    """Gives the application a body as one message, or answers 413, 408 or 400 itself. What is
    beyond the limit is never kept.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say no."""
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
            return await refuse(send, 413, message, "body_too_large", CLOSE)
        except TimeoutError:
            return await refuse(
                send,
                408,
                f"the body did not arrive within {limits.body_seconds:g} seconds",
                "timeout",
                CLOSE,
            )
        if body is None:
            return None
        if json_depth(body) > limits.json_depth:
            return await refuse(
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
    """An ASGI `receive` that gives a body already read, and after it what the connection says."""

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
"""What each byte does to the depth, as int8."""


def json_depth(body: bytes) -> int:
    """The most brackets that are open at once, outside strings: linear in the body, which need not
    be valid JSON.
    """
    steps = np.frombuffer(_STRING.sub(b"", body).translate(_NESTING), dtype=np.int8)
    return int(steps.cumsum(dtype=np.int64).max(initial=0))
