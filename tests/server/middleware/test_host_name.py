"""Host middleware: loopback names pass, all others get a 403."""

import asyncio
from typing import Any

import pytest
from asgi_calls import call, echo, http_scope

from puna.server.middleware.api_key import ApiKeyMiddleware
from puna.server.middleware.host_name import HostNameMiddleware


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.8.9.1:1",
        "[::1]",
        "[::1]:8000",
        "::1",
    ],
)
def test_names_of_this_machine_are_served(host: str) -> None:
    assert (
        asyncio.run(
            call(HostNameMiddleware(echo), http_scope(headers=[(b"host", host.encode())]))
        ).status
        == 200
    )


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        ("",),
        ("evil.example",),
        ("evil.example:8000",),
        ("localhost.evil.example",),
        ("127.0.0.1.evil.example",),
        ("testserver",),
        ("0.0.0.0:8000",),
        ("192.168.1.5",),
        ("[::1].evil.example",),
        ("localhost:80@evil.example",),
        ("localhost", "evil.example"),
        ("127.1",),
    ],
)
def test_a_name_that_a_page_of_the_web_could_have_is_rejected(hosts: tuple[str, ...]) -> None:
    """DNS rebinding: evil.example resolves to 127.0.0.1, but the browser says evil.example."""
    answer = asyncio.run(
        call(
            HostNameMiddleware(echo),
            http_scope(headers=[(b"host", host.encode()) for host in hosts]),
        )
    )
    assert answer.status == 403
    assert answer.error["code"] == "host_not_allowed"


def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def pass_through() -> None:
        for layer in (ApiKeyMiddleware(app, ["one"]), HostNameMiddleware(app)):
            await call(layer, {"type": "lifespan"})

    asyncio.run(pass_through())
    assert seen == ["lifespan", "lifespan"]
