"""Timeout middleware: nobody stays for ever."""

import asyncio
from typing import Any

import pytest
from asgi_calls import Answer, call, http_scope
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.server.middleware.timeout import ABORT, TimeoutMiddleware


async def stream_for_ever(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.01)


async def think_for_ever(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


def ask(app: ASGIApp, seconds: float = 60, **scope: Any) -> Answer:
    return asyncio.run(call(TimeoutMiddleware(app, seconds), http_scope(**scope)))


def test_an_answer_that_does_not_begin_in_time_is_a_504() -> None:
    answer = ask(think_for_ever, seconds=0.05)
    assert (answer.status, answer.error["code"]) == (504, "timeout")


def test_an_answer_that_does_not_end_in_time_loses_its_connection() -> None:
    aborted: list[bool] = []
    scope = http_scope(extensions={ABORT: lambda: aborted.append(True)})
    answer = asyncio.run(
        call(TimeoutMiddleware(stream_for_ever, 0.05), scope, [{"type": "http.disconnect"}])
    )
    assert answer.status == 200
    assert aborted == [True]


def test_a_complete_answer_keeps_its_connection() -> None:
    aborted: list[bool] = []

    async def answers_and_goes_on(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})
        await asyncio.Event().wait()

    answer = ask(
        answers_and_goes_on, seconds=0.05, extensions={ABORT: lambda: aborted.append(True)}
    )
    assert (answer.status, aborted) == (200, [])


def test_without_a_connection_to_cut_the_timeout_is_raised() -> None:
    with pytest.raises(TimeoutError):
        ask(stream_for_ever, seconds=0.05)


def test_a_timeout_of_the_applications_own_is_not_taken_for_this_one() -> None:
    async def fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise TimeoutError("a disk")

    with pytest.raises(TimeoutError, match="a disk"):
        ask(fails)
