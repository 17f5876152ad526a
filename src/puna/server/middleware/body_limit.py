"""Body limit middleware: reads a request's body before the application sees any of it, within
bounds of size, time and nesting; unpacks gzip.

Not here: the contents of the body (api/protocol.py), and the rest of one that is rejected
(lingering_close.py).
"""

import asyncio
import re
import zlib

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.server.auth import header
from puna.server.http_error import CLOSE, Headers, send_error
from puna.server.http_limits import HttpLimits

_GZIP = 16 + zlib.MAX_WBITS
"""zlib's word for a gzip header and trailer around the data."""


def has_body(scope: Scope) -> bool:
    """True for an HTTP request whose headers announce a body."""
    return scope["type"] == "http" and any(
        name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
    )


class BodyLimitMiddleware:
    """Gives the application a body as one message, or answers 413, 408, 415 or 400. Bytes beyond
    the limit are never kept, nor ever unpacked.
    """

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer with an error."""
        if not has_body(scope):
            return await self._app(scope, receive, send)
        try:
            body = await self._read(scope, receive)
            if body is None:
                return None
            self._check_depth(body)
        except _RejectedError as why:
            return await send_error(send, why.status, str(why), why.code, why.headers)
        return await self._app(scope, _Replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, unpacked, or None where the caller has gone."""
        coding = _content_coding(scope)
        declared = header(scope, b"content-length") or b""
        # Python reads no endless numbers
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._limits.body_bytes):
            raise self._too_large()
        seconds = self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                body = await self._received(receive)
        except TimeoutError:
            message = f"the body did not arrive within {seconds:g} seconds"
            raise _RejectedError(408, message, "timeout", CLOSE) from None
        return self._unpacked(body) if body and coding == "gzip" else body

    async def _received(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._limits.body_bytes:
                raise self._too_large()
        return b"".join(parts)

    def _unpacked(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            unpacked = unpacker.decompress(body, self._limits.body_bytes + 1)
        except zlib.error as error:
            raise _RejectedError(400, f"the body is no gzip: {error}", "invalid_gzip") from None
        if len(unpacked) > self._limits.body_bytes:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            where = "goes on behind its end" if unpacker.eof else "ends too soon"
            message = f"the body is no gzip: it {where}; send one whole stream"
            raise _RejectedError(400, message, "invalid_gzip")
        return unpacked

    def _check_depth(self, body: bytes) -> None:
        most = self._limits.json_depth
        if json_depth(body) > most:
            message = f"the body nests more than {most} brackets: flatten it"
            raise _RejectedError(400, message, "json_too_deep")

    def _too_large(self) -> "_RejectedError":
        message = (
            f"the body has more than {self._limits.body_bytes} bytes, the most that this server"
            " reads: send less at once"
        )
        return _RejectedError(413, message, "body_too_large", CLOSE)


class _RejectedError(Exception):
    """A body that is answered with an error. code: a word for programs."""

    def __init__(self, status: int, message: str, code: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


def _content_coding(scope: Scope) -> str:
    """`gzip` or `identity`. Raises _RejectedError, a 415, for any other coding of the body."""
    named = [value for name, value in scope["headers"] if name == b"content-encoding"]
    coding = b", ".join(named).decode("latin-1").strip().lower() or "identity"
    if coding in ("gzip", "x-gzip"):
        return "gzip"
    if coding == "identity":
        return coding
    raise _RejectedError(
        415,
        f"the content encoding is {coding[:60]!r}; send gzip, or the body as it is",
        "unsupported_media_type",
        ((b"accept-encoding", b"gzip, identity"), *CLOSE),
    )


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
