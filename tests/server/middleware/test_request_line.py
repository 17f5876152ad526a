"""Request line middleware: HEAD as GET without its body, and slashes in excess."""

import asyncio

import pytest
from asgi_calls import call, http_scope
from starlette.types import Message, Receive, Scope, Send

from puna.server.middleware.request_line import RequestLineMiddleware


async def said(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the method and the path that it was given, in two parts."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    parts: list[Message] = [
        {"type": "http.response.body", "body": scope["method"].encode(), "more_body": True},
        {"type": "http.response.body", "body": b" " + scope["path"].encode()},
    ]
    for part in parts:
        await send(part)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1//chat///completions//", "/v1/chat/completions"),
        ("/v1/models/a:b", "/v1/models/a:b"),
    ],
)
def test_slashes_in_excess_are_not_seen(path: str, plain: str) -> None:
    answer = asyncio.run(call(RequestLineMiddleware(said), http_scope(path)))
    assert answer.body == f"POST {plain}".encode()


def test_a_head_is_a_get_whose_body_is_not_sent() -> None:
    scope = http_scope("/health", method="HEAD")
    answer = asyncio.run(call(RequestLineMiddleware(said), scope))
    assert (answer.status, answer.headers, answer.body) == (200, {b"a": b"b"}, b"")
    assert scope["method"] == "HEAD", "the server must still know that it sends no body"
