"""The gate: closed when the server cannot serve, and nobody stays for ever."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgi_calls import Answer, call, echo, http_scope
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.engine_process.client import Health
from puna.server.gate import ABORT, Gate

OK = Health(True, "ok")


async def stream_for_ever(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.01)


async def think_for_ever(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


def ask(app: ASGIApp, health: Health = OK, seconds: float = 60, **scope: Any) -> Answer:
    return asyncio.run(call(Gate(app, lambda: health, seconds), http_scope(**scope)))


@pytest.mark.parametrize("status", ["loading", "stuck", "dead", "draining"])
def test_a_server_that_cannot_serve_says_so(status: Any) -> None:
    answer = ask(echo, Health(False, status, "because"))
    assert answer.status == 503
    assert answer.error["code"] == status
    assert "because" in answer.error["message"]
    assert b"retry-after" in answer.headers
    assert answer.headers[b"connection"] == b"close"


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_whoever_watches_is_let_through(path: str) -> None:
    assert ask(echo, Health(False, "stuck", ""), path=path).status == 200


def test_an_answer_that_does_not_begin_in_time_is_a_504() -> None:
    answer = ask(think_for_ever, seconds=0.05)
    assert (answer.status, answer.error["code"]) == (504, "timeout")


def test_an_answer_that_does_not_end_in_time_loses_its_connection() -> None:
    aborted: list[bool] = []
    scope = http_scope(extensions={ABORT: lambda: aborted.append(True)})
    answer = asyncio.run(
        call(Gate(stream_for_ever, lambda: OK, 0.05), scope, [{"type": "http.disconnect"}])
    )
    assert answer.status == 200
    assert aborted == [True]


def test_without_a_connection_to_cut_the_timeout_is_raised() -> None:
    with pytest.raises(TimeoutError):
        ask(stream_for_ever, seconds=0.05)


def test_a_timeout_of_the_applications_own_is_not_taken_for_the_gates() -> None:
    async def fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise TimeoutError("a disk")

    with pytest.raises(TimeoutError, match="a disk"):
        ask(fails)


def test_idle_is_when_all_answers_are_complete() -> None:
    async def watch() -> None:
        release = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await release.wait()
            await echo(scope, receive, send)

        gate = Gate(app, lambda: OK, 60)
        await gate.wait_until_idle()
        calls = [asyncio.create_task(call(gate, http_scope())) for _ in range(3)]
        await asyncio.sleep(0)
        assert gate.in_progress == 3
        idle = asyncio.create_task(gate.wait_until_idle())
        await asyncio.sleep(0)
        assert not idle.done()
        release.set()
        await asyncio.gather(*calls)
        await asyncio.wait_for(idle, 5)
        assert gate.in_progress == 0

    asyncio.run(watch())


def test_a_failure_leaves_nothing_in_progress() -> None:
    async def watch(app: Callable[..., Any]) -> None:
        gate = Gate(app, lambda: OK, 60)
        with pytest.raises(ZeroDivisionError):
            await call(gate, http_scope())
        await asyncio.wait_for(gate.wait_until_idle(), 5)

    async def fails(*_: Any) -> None:
        raise ZeroDivisionError

    asyncio.run(watch(fails))
