"""Error responses of the middleware and of the connection, in the shape of OpenAI's errors: over
ASGI or as the bytes of HTTP.

Not here: the errors of the endpoints (api/error_response.py), and the reasons.
"""

import http
from collections.abc import Sequence

from starlette.types import Send

from puna.api.error_response import ApiError

Headers = Sequence[tuple[bytes, bytes]]

CLOSE: Headers = ((b"connection", b"close"),)
"""Of an answer that comes before the request was read to its end: the rest must not be waited for.
"""


async def send_error(
    send: Send, status: int, message: str, code: str, headers: Headers = ()
) -> None:
    """Answer an ASGI request whose response has not begun. code: a word for programs."""
    body = _body(status, message, code)
    described = [*_content_headers(body), *headers]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": body})


def error_bytes(status: int, message: str, code: str) -> bytes:
    """The same as the bytes of a whole HTTP/1.1 answer, after which the connection ends."""
    body = _body(status, message, code)
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}".encode("ascii")]
    lines += [name + b": " + value for name, value in (*_content_headers(body), *CLOSE)]
    return b"\r\n".join([*lines, b"", body])


def _body(status: int, message: str, code: str) -> bytes:
    return ApiError(status, message, code=code).body().to_json()


def _content_headers(body: bytes) -> Headers:
    return (
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
    )
