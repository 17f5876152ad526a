"""Readiness middleware: a 503 when the server cannot serve, and a count of what is in progress."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgi_calls import Answer, call, echo, http_scope
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.engine_process.client import Health
from puna.server.middleware.readiness import ReadinessMiddleware

OK = Health(True, "ok")


def ask(app: ASGIApp, health: Health = OK, **scope: Any) -> Answer:
    return asyncio.run(call(ReadinessMiddleware(app, lambda: health), http_scope(**scope)))


@pytest.mark.parametrize("status", ["loading", "stuck", "dead", "draining"])
def test_a_server_that_cannot_serve_says_so(status: Any) -> None:
    answer = ask(echo, Health(False, status, "because"))
    assert answer.status == 503
    assert answer.error["code"] == status
    assert "because" in answer.error["message"]
    assert b"retry-after" in answer.headers
    assert answer.headers[b"connection"] == b"close"


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_health_and_metrics_are_always_open(path: str) -> None:
    assert ask(echo, Health(False, "stuck", ""), path=path).status == 200


def test_idle_is_when_all_answers_are_complete() -> None:
    async def watch() -> None:
        release = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await release.wait()
            await echo(scope, receive, send)

        layer = ReadinessMiddleware(app, lambda: OK)
        await layer.wait_until_idle()
        calls = [asyncio.create_task(call(layer, http_scope())) for _ in range(3)]
        await asyncio.sleep(0)
        assert layer.in_progress == 3
        idle = asyncio.create_task(layer.wait_until_idle())
        await asyncio.sleep(0)
        assert not idle.done()
        release.set()
        await asyncio.gather(*calls)
        await asyncio.wait_for(idle, 5)
        assert layer.in_progress == 0

    asyncio.run(watch())


def test_a_failure_leaves_nothing_in_progress() -> None:
    async def watch(app: Callable[..., Any]) -> None:
        layer = ReadinessMiddleware(app, lambda: OK)
        with pytest.raises(ZeroDivisionError):
            await call(layer, http_scope())
        await asyncio.wait_for(layer.wait_until_idle(), 5)

    async def fails(*_: Any) -> None:
        raise ZeroDivisionError

    asyncio.run(watch(fails))
