"""The whole server on loopback, as serve.py runs it, in the event loop of the tests: real
connections to a real engine process.
"""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from background_loop import BackgroundLoop

from puna.engine_process.client import EngineClient
from puna.server.app import create_app
from puna.server.connection import http_server
from puna.server.http_limits import HttpLimits
from puna.server.middleware.request_log import LogFormat
from puna.server.serve import outer_layers


@contextmanager
def live_server(
    loop: BackgroundLoop,
    client: EngineClient,
    limits: HttpLimits | None = None,
    log: logging.Logger | None = None,
    log_format: LogFormat = "text",
    **options: Any,
) -> Iterator[str]:
    """Serve the client's models; gives the address, such as http://127.0.0.1:43210. options: of
    create_app.
    """
    limits = limits or HttpLimits()
    app = create_app(client, limits, metrics=client.metrics, **options)
    outermost, _ = outer_layers(app, client, limits, log, log_format)
    server = http_server(outermost, limits)
    # asyncio sends at once where it says TCP
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serving = loop.run(_begin(server, listener))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            loop.run(_end(server, serving))


async def _begin(server: uvicorn.Server, listener: socket.socket) -> "asyncio.Task[None]":
    return asyncio.create_task(server.serve([listener]))  # it listens already: who comes now waits


async def _end(server: uvicorn.Server, serving: "asyncio.Task[None]") -> None:
    server.should_exit = server.force_exit = True
    await serving
