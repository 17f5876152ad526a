"""The private names and behaviour of uvicorn that server/connection.py builds on.

They are the reason for the upper bound of uvicorn in pyproject.toml: a release may change them
without saying so. Where one of these fails with a newer uvicorn, connection.py has to change before
the bound.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from puna.server.connection import BoundedConnection, HttpServer

GET = b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that notes what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closing, self.reading = b"", False, True

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers once it is told that the request is whole, or gone."""
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def connected(kind: type[HttpToolsProtocol] = HttpToolsProtocol) -> tuple[Any, Wire]:
    """A protocol as a server makes it, with a client."""
    config = uvicorn.Config(waiting, ws="none", lifespan="off", log_config=None)
    protocol, wire = kind(config, ServerState(), {}), Wire()
    protocol.connection_made(wire)
    return protocol, wire


def in_a_loop(check: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await check()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        *(
            (BoundedConnection, HttpToolsProtocol, name)
            for name in vars(BoundedConnection)
            if hasattr(HttpToolsProtocol, name)
            and inspect.isfunction(vars(BoundedConnection)[name])
        ),
        (HttpServer, uvicorn.Server, "capture_signals"),
    ],
)
def test_what_is_overridden_takes_the_same_arguments(ours: type, theirs: type, name: str) -> None:
    mine, original = (
        inspect.signature(getattr(ours, name)),
        inspect.signature(getattr(theirs, name)),
    )
    assert list(mine.parameters) == list(original.parameters)


def test_everything_that_is_overridden_is_still_there() -> None:
    overridden = {"connection_made", "connection_lost", "data_received", "on_message_begin"}
    overridden |= {"on_headers_complete", "on_response_complete", "send_400_response"}
    assert overridden <= set(vars(BoundedConnection)) & set(vars(HttpToolsProtocol))
    assert "capture_signals" in vars(uvicorn.Server)


def test_a_connection_has_what_we_read() -> None:
    async def check() -> None:
        protocol, wire = connected()
        assert (protocol.transport, protocol.cycle, list(protocol.pipeline)) == (wire, None, [])
        assert protocol.loop is asyncio.get_running_loop()
        assert protocol.connections == {protocol}
        protocol.data_received(POST)
        assert protocol.url == b"/first"
        assert protocol.headers == [(b"host", b"a"), (b"content-length", b"5")]
        assert protocol.parser.should_upgrade() is False
        assert protocol.scope["path"] == "/first"
        cycle = protocol.cycle
        assert type(cycle) is RequestResponseCycle
        assert (cycle.more_body, cycle.keep_alive) == (True, True)
        assert (cycle.response_started, cycle.response_complete) == (False, False)
        assert cycle.disconnected is False
        protocol.flow.pause_reading()
        assert not wire.reading
        cycle.disconnected = True
        cycle.message_event.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not protocol.tasks
        assert wire.written == b""  # nothing is written for a request that is gone

    in_a_loop(check)


def test_a_request_behind_another_waits_as_a_pair_that_can_be_replaced() -> None:
    async def check() -> None:
        protocol, wire = connected()
        protocol.data_received(POST)
        first = protocol.cycle
        first.more_body = False  # as after its body, which the parser would want here
        protocol.on_message_begin()
        protocol.on_url(b"/second")
        protocol.on_headers_complete()
        second = protocol.cycle
        assert second is not first
        ((waits, app),) = protocol.pipeline
        assert waits is second
        assert callable(app)

        async def instead(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 418, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        protocol.pipeline[0] = (second, instead)
        first.message_event.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert wire.written.startswith(b"HTTP/1.1 204 ")
        assert b"HTTP/1.1 418 " in wire.written
        assert not protocol.pipeline

    in_a_loop(check)


def test_losing_a_connection_is_told_to_the_newest_request_only() -> None:
    """The reason for connection_lost of ours."""

    async def check() -> None:
        protocol, _ = connected()
        protocol.data_received(POST)
        first = protocol.cycle
        protocol.on_message_begin()
        protocol.on_url(b"/second")
        protocol.on_headers_complete()
        protocol.connection_lost(ConnectionError())
        assert (first.disconnected, protocol.cycle.disconnected) == (False, True)
        for cycle in (first, protocol.cycle):
            cycle.disconnected = True
            cycle.message_event.set()
        await asyncio.sleep(0)

    in_a_loop(check)


@pytest.mark.parametrize("data", [b"no HTTP\r\n\r\n", GET.replace(b"host", b"raise")])
def test_what_the_parser_or_a_callback_rejects_ends_in_send_400_response(data: bytes) -> None:
    async def check() -> None:
        messages: list[str] = []

        class Strict(HttpToolsProtocol):
            def on_headers_complete(self) -> None:
                if self.headers and self.headers[0][0] == b"raise":
                    raise ValueError
                super().on_headers_complete()

            def send_400_response(self, msg: str) -> None:
                messages.append(msg)

        protocol, wire = connected(Strict)
        protocol.data_received(data)
        assert len(messages) == 1
        assert (wire.written, wire.closing) == (b"", False)

    in_a_loop(check)


def test_a_whole_answer_is_told_before_the_next_request_is_waited_for() -> None:
    async def check() -> None:
        protocol, wire = connected()
        protocol.data_received(GET)
        for _ in range(5):
            await asyncio.sleep(0)
        assert wire.written.startswith(b"HTTP/1.1 204 ")
        assert protocol.cycle.response_complete
        assert not wire.closing
        protocol.connection_lost(None)

    in_a_loop(check)


def test_a_server_ends_by_its_flags() -> None:
    server = uvicorn.Server(uvicorn.Config(waiting, log_config=None))
    assert (server.should_exit, server.force_exit) == (False, False)
