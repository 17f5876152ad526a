"""One HTTP connection: uvicorn's, bounded in time and size before there is a request.

uvicorn with httptools waits for ever for a first request or the rest of its headers, keeps headers
and trailers of any size, and closes a connection only once its reader has taken what was written.
Bodies and answers are bounded above this, in middleware/body_limit.py and middleware/timeout.py.
uvicorn's private names that this file builds on are listed by
tests/server/test_uvicorn_internals.py.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from puna.server.http_error import CLOSE, error_bytes, send_error
from puna.server.http_limits import HttpLimits
from puna.server.middleware.timeout import ABORT


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol of one connection, within limits; `http_server` sets them in a
    subclass.
    """

    limits: HttpLimits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._error = (400, "this is no valid HTTP request", "invalid_http")
        self._in_head, self._size, self._deaf = True, 0, False
        self._cycles: list[RequestResponseCycle] = []
        self.idle_since: float | None = None
        if len(self.connections) > self.limits.connections and not self._take_place():
            self._reject(
                503,
                f"the server has {self.limits.connections} connections, the most that it holds:"
                " come again",
                "too_many_connections",
            )
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Either end has closed. uvicorn tells it to the newest request only, but those before it
        may be the ones in progress.
        """
        self._stop_timers()
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes, perhaps in the middle of anything."""
        if self._deaf:
            return
        self._size += len(data)
        super().data_received(data)
        if self._deaf or self.transport.is_closing():
            return
        if self._in_head and self._size > self.limits.header_bytes:
            self._reject(*_HEADERS_TOO_LARGE)  # without an end
        elif not self._in_head and self._size > self._most_of_a_body():
            self._reject(*_BODY_TOO_LARGE)  # with its frames, extensions and trailers
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if not self._in_head:  # else these bytes are counted already
            self._in_head, self._size = True, 0
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        """All headers of a request are there. httptools turns an exception raised here into an
        invalid request.
        """
        if (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > self.limits.header_bytes
        ):
            self._error = _HEADERS_TOO_LARGE
            raise ValueError("headers")
        if self.parser.should_upgrade() and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        ):
            self._error = _UPGRADE  # the parser would drop the body
            raise ValueError("upgrade")
        self._stop_timers()
        self._in_head, self._size = False, 0
        self.idle_since = None
        super().on_headers_complete()
        assert self.cycle is not None
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete] + [
            self.cycle
        ]

    def on_response_complete(self) -> None:
        """All of an answer was written, if not yet taken by its reader."""
        super().on_response_complete()
        assert self.cycle is not None
        self.idle_since = self.loop.time() if self.cycle.response_complete else None
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._linger_timer = self.loop.call_later(self.limits.request_seconds, self._cut_unread)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  (uvicorn decides)
        """The parser gave up."""
        self._reject(*self._error)

    def _cut_unread(self) -> None:
        """End a connection whose reader has not taken its answer; one that waits for its next
        request stays.
        """
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            self.transport.abort()

    def _take_place(self) -> bool:
        """Close the connection that has waited longest for its next request; False if there is
        none.
        """
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, BoundedConnection)
            and connection.idle_since is not None
            and not connection.transport.is_closing()
        ]
        if waiting:
            min(waiting, key=lambda connection: connection.idle_since or 0.0).transport.close()
        return bool(waiting)

    def _too_slow(self) -> None:
        self._reject(
            408, f"no whole request came within {self.limits.header_seconds:g} seconds", "timeout"
        )

    def _reject(self, status: int, message: str, code: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._answer_and_close(error_bytes(status, message, code))
        # the answer to a request before this one comes first
        elif self.pipeline and cycle.more_body:
            self.pipeline[0] = (cycle, functools.partial(_send_rejection, status, message, code))
            self._last()
        # what follows a whole request is at fault: that one is still answered
        elif not cycle.more_body:
            self._last()
        else:
            if cycle.response_started:
                # in the middle of its own answer there is no place for this one
                self.transport.abort()
            else:
                self._answer_and_close(error_bytes(status, message, code))
            cycle.disconnected = True  # nothing more is to be written
            cycle.message_event.set()

    def _answer_and_close(self, answer: bytes) -> None:
        """Read on for a moment, into nothing: closing with bytes unread is a reset, which can take
        the answer along.
        """
        self._deaf = True
        self._stop_timers()
        self.transport.write(answer)
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(_FAREWELL_SECONDS, self.transport.abort)

    def _last(self) -> None:
        """Take in no more, and close after the answer to the newest request."""
        assert self.cycle is not None
        self.cycle.more_body, self.cycle.keep_alive = False, False
        self.flow.pause_reading()

    def _most_of_a_body(self) -> int:
        """Bytes of a body on the wire at most: more where it is rejected and only dropped."""
        if self.cycle is not None and self.cycle.response_started:
            return self.limits.dropped_bytes
        return self.limits.header_bytes + 2 * self.limits.body_bytes

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._too_slow)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._linger_timer = None


_FAREWELL_SECONDS = 1.0
_HEADERS_TOO_LARGE = (
    431,
    "the first line and the headers of the request are too large",
    "headers_too_large",
)
_BODY_TOO_LARGE = (413, "the body of the request is too large", "body_too_large")
_UPGRADE = (
    400,
    "a request with a body cannot ask for another protocol here: leave out the header Upgrade",
    "invalid_http",
)


async def _send_rejection(
    status: int, message: str, code: str, _scope: Scope, _receive: Receive, send: Send
) -> None:
    """The application of a request that is rejected when its turn comes."""
    await send_error(send, status, message, code, CLOSE)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: ours are there before the models are loaded, and
    drain.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def http_server(app: ASGIApp, limits: HttpLimits) -> HttpServer:
    """A server of `app` within these limits; `serve([listener])` runs it until its `should_exit` is
    set.
    """
    # it warns of each burst of events whose reader has just left
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=type("_Connection", (BoundedConnection,), {"limits": limits}),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # a caller's word for its own address would get around the limits
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=limits.keep_alive_seconds,
    )
    return HttpServer(config)
