"""An answer that says no, from below the application: in the shape of OpenAI's errors, over ASGI or
as the bytes of HTTP.

Not here: the errors of the endpoints themselves (errors.py), and the reasons.
"""

import http
import json
from collections.abc import Sequence

from starlette.types import Send

Headers = Sequence[tuple[bytes, bytes]]

CLOSE: Headers = ((b"connection", b"close"),)
"""For an answer that comes before the request was read to its end: the rest of it must not be
waited for.
"""


def error_body(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """The JSON of an error. code: a word for programs. kind: OpenAI's `type`, such as
    server_error.
    """
    return json.dumps(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}
    ).encode("ascii")


def kind_of(status: int) -> str:
    """OpenAI's `type` for a status."""
    return "server_error" if status >= 500 else "invalid_request_error"


async def refuse(send: Send, status: int, message: str, code: str, headers: Headers = ()) -> None:
    """Answer an ASGI request that no answer has been begun to."""
    body = error_body(message, code, kind_of(status))
    await send(
        {"type": "http.response.start", "status": status, "headers": [*_described(body), *headers]}
    )
    await send({"type": "http.response.body", "body": body})


def refusal_bytes(status: int, message: str, code: str) -> bytes:
    """The same as the bytes of a whole HTTP/1.1 answer, after which the connection ends."""
    body = error_body(message, code, kind_of(status))
    first = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode("ascii")
    return (
        first
        + b"".join(name + b": " + value + b"\r\n" for name, value in (*_described(body), *CLOSE))
        + b"\r\n"
        + body
    )


def _described(body: bytes) -> Headers:
    return (
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
    )
