"""The life of a server: binds, starts the engine process, serves until a signal or the engine's
end, and drains.

A first SIGTERM or SIGINT lets what is in progress end, up to `drain_seconds`, while /health says
"draining" and new requests get a 503. A second one ends at once. Where the engine process ends by
itself, requests in progress get an error, and the server ends too, so that a supervisor can restart
it. Not here: options and their texts (cli/serve.py), endpoints (app.py).
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from puna.engine_process.client import CLOSE_SECONDS, EngineClient, EngineStopped
from puna.engine_process.messages import Dtype, ModelSpec
from puna.engine_process.metrics import Metrics
from puna.errors import ConfigError
from puna.inference.engine_config import EngineConfig
from puna.server.app import create_app
from puna.server.auth import check_exposure, reaches_only_here
from puna.server.connection import http_server
from puna.server.http_limits import HttpLimits
from puna.server.middleware.lingering_close import LingeringCloseMiddleware
from puna.server.middleware.readiness import ReadinessMiddleware
from puna.server.middleware.request_line import RequestLineMiddleware
from puna.server.middleware.request_log import LogFormat, RequestLogMiddleware
from puna.server.middleware.timeout import TimeoutMiddleware

FAREWELL_SECONDS = 2.0
"""For the last answers to reach their readers once the engine has ended."""


@dataclass(frozen=True)
class ServerOptions:
    """Address, access and limits of a server. anyone: a host that others reach needs no key.
    threads: of a model's arithmetic; None for one fewer than there are cores. log: of requests, a
    line each.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    anyone: bool = False
    allow_origins: tuple[str, ...] = ()
    drain_seconds: float = 30.0
    hang_seconds: float = 8.0
    device: str = "auto"
    dtype: Dtype | None = None
    threads: int | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    log: logging.Logger | None = None
    log_format: LogFormat = "text"


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a listening server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def serve(
    specs: Sequence[ModelSpec],
    engine: EngineConfig,
    options: ServerOptions,
    announce: Callable[[Address, EngineClient], None],
    announce_drain: Callable[[int], None],
) -> int:
    """Serve models until told to end; the exit code: 0 after draining, 128 and the signal's number
    after a second one.

    announce: called once the models are loaded. announce_drain: called with the number of requests
    in progress, if there are any, when the first signal comes. Raises ConfigError for an address
    that cannot be had or that would expose the models, EngineStopped where the engine process could
    not load them or ended.
    """
    check_exposure(options.host, options.api_keys, options.anyone)
    with _bind(options.host, options.port) as listener, asyncio.Runner() as runner:
        return runner.run(_serve(specs, engine, options, listener, announce, announce_drain))


def outer_layers(
    app: ASGIApp,
    client: EngineClient,
    limits: HttpLimits,
    log: logging.Logger | None = None,
    log_format: LogFormat = "text",
) -> tuple[ASGIApp, ReadinessMiddleware]:
    """The application within the layers that surround every request; and of them the one that
    counts requests in progress.
    """
    readiness = ReadinessMiddleware(TimeoutMiddleware(app, limits.request_seconds), client.health)
    lingering = LingeringCloseMiddleware(readiness, limits)
    return RequestLogMiddleware(RequestLineMiddleware(lingering), log, log_format), readiness


async def _serve(
    specs: Sequence[ModelSpec],
    engine: EngineConfig,
    options: ServerOptions,
    listener: socket.socket,
    announce: Callable[[Address, EngineClient], None],
    announce_drain: Callable[[int], None],
) -> int:
    with _signals() as signals:
        metrics = Metrics()
        client = await EngineClient.launch(
            specs,
            engine,
            device=options.device,
            dtype=options.dtype,
            threads=options.threads,
            hang_seconds=options.hang_seconds,
            metrics=metrics,
        )
        app = create_app(
            client,
            options.limits,
            api_keys=options.api_keys,
            allow_origins=options.allow_origins,
            metrics=metrics,
            loopback_only=reaches_only_here(options.host),
        )
        outermost, readiness = outer_layers(
            app, client, options.limits, options.log, options.log_format
        )
        server = http_server(outermost, options.limits)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            return await _until_the_end(
                client,
                readiness,
                options.drain_seconds,
                signals,
                lambda: announce(_address(listener), client),
                announce_drain,
            )
        finally:
            cut = readiness.in_progress > 0  # callers who still wait have waited for drain_seconds
            server.should_exit, server.force_exit = True, cut
            await client.close(seconds=0 if cut else CLOSE_SECONDS)
            with contextlib.suppress(TimeoutError):  # they are told that the engine has ended
                await asyncio.wait_for(readiness.wait_until_idle(), FAREWELL_SECONDS)
            await serving


async def _until_the_end(
    client: EngineClient,
    readiness: ReadinessMiddleware,
    drain_seconds: float,
    signals: "asyncio.Queue[int]",
    announce: Callable[[], None],
    announce_drain: Callable[[int], None],
) -> int:
    """From loading to the exit code."""
    stopped = asyncio.create_task(client.wait_until_stopped())
    signalled = asyncio.create_task(signals.get())
    ready = asyncio.create_task(client.ready())
    try:
        await asyncio.wait((ready, signalled), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            return 0  # told to end before there was anything to serve
        await ready
        announce()
        await asyncio.wait((stopped, signalled), return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            client.drain()
            if readiness.in_progress:
                announce_drain(readiness.in_progress)
            idle = asyncio.create_task(readiness.wait_until_idle())
            signalled = asyncio.create_task(signals.get())
            await asyncio.wait(
                (idle, stopped, signalled),
                timeout=drain_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            idle.cancel()
            if signalled.done():
                return 128 + signalled.result()
        if stopped.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(readiness.wait_until_idle(), FAREWELL_SECONDS)
            raise EngineStopped(stopped.result())
        return 0
    finally:
        for task in (stopped, signalled, ready):
            task.cancel()


@contextlib.contextmanager
def _signals() -> Iterator["asyncio.Queue[int]"]:
    """SIGINT and SIGTERM, one after the other, as they come."""
    loop, received = asyncio.get_running_loop(), asyncio.Queue[int]()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, received.put_nowait, int(number))
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is an error before any model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error}; give another --port, or --port 0 for"
            " any free one"
        ) from error
    return listener


def _address(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(host, port)
