"""Lingering close middleware: who sends a whole body before reading still gets the answer that came
before its end.
"""

import asyncio
from typing import Any

import pytest
from asgi_calls import Answer, call, echo, http_scope
from starlette.types import Message, Receive, Scope, Send

from puna.server.http_error import CLOSE, send_error
from puna.server.http_limits import HttpLimits
from puna.server.middleware.lingering_close import LingeringCloseMiddleware

BODY = [(b"content-length", b"40")]


def parts(count: int, size: int = 10) -> list[Message]:
    return [
        {"type": "http.request", "body": b"x" * size, "more_body": place < count - 1}
        for place in range(count)
    ]


async def reject(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers without reading."""
    await send_error(send, 401, "no", "invalid_api_key", CLOSE)


class Caller:
    """One whose messages are counted when they are taken, and told what was sent by then."""

    def __init__(self, messages: list[Message]) -> None:
        self.left, self.sent, self.sent_before = messages, list[Message](), 0

    async def receive(self) -> Message:
        self.sent_before = self.sent_before or len(self.sent)
        if not self.left:
            await asyncio.Event().wait()
        return self.left.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def reject_from(messages: list[Message], **limits: Any) -> Caller:
    caller = Caller(messages)
    layer = LingeringCloseMiddleware(reject, HttpLimits(**limits))
    asyncio.run(layer(http_scope(headers=BODY), caller.receive, caller.send))
    return caller


def test_the_rest_is_dropped_behind_the_answer() -> None:
    caller = reject_from(parts(4))
    assert caller.left == []
    assert caller.sent_before == 2, "status and text are sent before anything is waited for"
    assert [message.get("more_body", False) for message in caller.sent[1:]] == [True, False]
    assert b"invalid_api_key" in caller.sent[1]["body"]
    assert caller.sent[2]["body"] == b""


def test_the_rest_has_a_bound() -> None:
    caller = reject_from(parts(100), body_bytes=5)  # 80 of them are dropped
    assert len(caller.left) == 92
    assert not caller.sent[-1].get("more_body", False)


def test_a_rest_that_does_not_come_is_not_waited_for() -> None:
    caller = reject_from(parts(100)[:3], body_seconds=0.05)
    assert not caller.sent[-1].get("more_body", False)


def test_a_caller_that_has_gone_is_not_waited_for() -> None:
    caller = reject_from([{"type": "http.disconnect"}])
    assert caller.left == []


@pytest.mark.parametrize("headers", [BODY, []])
def test_an_answer_to_a_whole_request_is_passed_on(headers: list[tuple[bytes, bytes]]) -> None:
    layer = LingeringCloseMiddleware(echo, HttpLimits())
    answer: Answer = asyncio.run(call(layer, http_scope(headers=headers), parts(1)))
    assert answer.body == (b"x" * 10 if headers else b"")
