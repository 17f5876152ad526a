"""Bodies: whole and in one piece to the application, or rejected before they cost anything."""

import asyncio
import gzip
import json
import time
import tracemalloc
from typing import Any

import pytest
from asgi_calls import Answer, call, echo, http_scope
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from puna.server.http_limits import HttpLimits
from puna.server.middleware.body_limit import BodyLimitMiddleware, json_depth

CHUNKED = [(b"transfer-encoding", b"chunked")]


def parts(*bodies: bytes) -> list[Message]:
    return [
        {"type": "http.request", "body": body, "more_body": place < len(bodies) - 1}
        for place, body in enumerate(bodies)
    ]


def ask(scope: Scope, messages: list[Message], app: Any = echo, **limits: Any) -> Answer:
    return asyncio.run(call(BodyLimitMiddleware(app, HttpLimits(**limits)), scope, messages))


def declared(size: int | bytes) -> Scope:
    return http_scope(
        headers=[(b"content-length", size if isinstance(size, bytes) else str(size).encode())]
    )


def test_a_body_in_pieces_arrives_as_one() -> None:
    assert ask(declared(6), parts(b"ab", b"", b"cd", b"ef")).body == b"abcdef"
    assert ask(http_scope(headers=CHUNKED), parts(b"ab", b"cd")).body == b"abcd"


def test_the_limit_itself_is_allowed() -> None:
    assert ask(declared(10), parts(b"x" * 10), body_bytes=10).status == 200


@pytest.mark.parametrize("size", [11, b"9" * 30, b"9" * 5000])
def test_a_declared_size_beyond_the_limit_is_rejected_unread(size: int | bytes) -> None:
    answer = ask(declared(size), [], body_bytes=10)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert answer.headers[b"connection"] == b"close"


@pytest.mark.parametrize("headers", [CHUNKED, [(b"content-length", b"3")]])
def test_a_body_that_never_said_its_size_is_read_up_to_the_limit_only(
    headers: list[tuple[bytes, bytes]],
) -> None:
    """Chunked, or with a length that is a lie: what is past the limit is left where it is."""
    messages = parts(*[b"x" * 4] * 100)
    answer = ask(http_scope(headers=headers), messages, body_bytes=10)
    assert answer.status == 413


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    begun = time.monotonic()
    answer = ask(
        declared(10), [{"type": "http.request", "body": b"x", "more_body": True}], body_seconds=0.05
    )
    assert (answer.status, answer.error["code"]) == (408, "timeout")
    assert time.monotonic() - begun < 5


def test_a_caller_that_goes_amid_its_body_is_not_answered() -> None:
    assert ask(declared(10), [{"type": "http.disconnect"}]).status is None


def test_a_request_without_a_body_passes_at_once() -> None:
    assert ask(http_scope(), []).status == 200


def test_the_application_still_hears_of_the_callers_leaving() -> None:
    heard: list[str] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    ask(declared(2), [*parts(b"{}"), {"type": "http.disconnect"}], app)
    assert heard == ["http.request", "http.disconnect"]


def packed(data: bytes, coding: bytes = b"gzip", **limits: Any) -> Answer:
    scope = http_scope(
        headers=[(b"content-length", b"%d" % len(data)), (b"content-encoding", coding)]
    )
    return ask(scope, parts(data), **limits)


@pytest.mark.parametrize("coding", [b"gzip", b"x-gzip", b"GZIP "])
def test_gzip_is_unpacked(coding: bytes) -> None:
    answer = packed(gzip.compress(b'{"a": 1}'), coding)
    assert (answer.status, answer.body) == (200, b'{"a": 1}')
    assert packed(b"", coding).body == b""
    assert packed(b"{}", b"identity").body == b"{}"


def test_gzip_is_unpacked_up_to_the_limit_only() -> None:
    """A bomb: 100 MB in 100 kB, of which no more than the limit and a byte come out."""
    assert packed(gzip.compress(b"x" * 50), body_bytes=50).status == 200
    assert packed(gzip.compress(b"x" * 51), body_bytes=50).status == 413
    bomb = gzip.compress(b"0" * 10**8, 1)
    tracemalloc.start()
    try:
        answer = packed(bomb, body_bytes=10**6)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert most < 2 * len(bomb) + 5 * 10**6


@pytest.mark.parametrize(
    "data",
    [b"{}", gzip.compress(b"{}")[:-1], gzip.compress(b"{}") + b"x", gzip.compress(b"{}") * 2],
    ids=["plain", "cut", "longer", "two"],
)
def test_what_is_no_gzip_is_a_400(data: bytes) -> None:
    answer = packed(data)
    assert (answer.status, answer.error["code"]) == (400, "invalid_gzip")


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"deflate", b"gzip, gzip", b"identity, br"])
def test_another_coding_is_a_415_that_says_which_is_read(coding: bytes) -> None:
    answer = packed(b"{}", coding)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert answer.headers[b"accept-encoding"] == b"gzip, identity"


def test_deep_nesting_is_rejected() -> None:
    deep = b"[" * 65 + b"]" * 65
    answer = ask(declared(len(deep)), parts(deep))
    assert (answer.status, answer.error["code"]) == (400, "json_too_deep")
    fine = b"[" * 64 + b"]" * 64
    assert ask(declared(len(fine)), parts(fine)).status == 200


json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(json_values, st.booleans())
def test_the_depth_is_that_of_the_value(value: Any, ascii_only: bool) -> None:
    """Brackets and quotes inside texts do not count, in whatever way they are escaped."""
    assert json_depth(
        json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    ) == depth(value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"',
        b'"\\',
        b"]]]]",
        b'"' * 1001,
        b'"\\' * 200_000,
        b'\\"' * 200_000,
        b'"' + b'\\"[' * 200_000,
    ],
)
def test_what_is_no_json_takes_no_longer(body: bytes) -> None:
    """An unclosed string is read once, not from each of its quotes on: 600 kB would take
    minutes.
    """
    begun = time.perf_counter()
    assert json_depth(body) == 0
    assert time.perf_counter() - begun < 2
