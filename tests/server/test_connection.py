"""Connections that mean no good, or nothing: raw bytes against a listening server."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from background_loop import BackgroundLoop
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.engine_process.client import Health
from puna.server.connection import http_server
from puna.server.http_limits import HttpLimits
from puna.server.middleware.body_limit import BodyLimitMiddleware
from puna.server.middleware.lingering_close import LingeringCloseMiddleware
from puna.server.middleware.readiness import ReadinessMiddleware
from puna.server.middleware.timeout import TimeoutMiddleware

Connect = Callable[..., socket.socket]
LIMITS = HttpLimits(
    header_bytes=2000,
    header_seconds=0.4,
    body_bytes=5000,
    body_seconds=0.4,
    request_seconds=1.0,
    connections=20,
)
HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """/echo gives the body back, /flood writes for ever, /hold waits until its caller has gone."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/flood":
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            await asyncio.sleep(0)
    message = await receive()
    if scope["path"] == "/hold":
        while message["type"] != "http.disconnect":
            message = await receive()
    await send({"type": "http.response.body", "body": message.get("body", b"")})


@pytest.fixture(scope="module")
def gate() -> ReadinessMiddleware:
    bounded = BodyLimitMiddleware(application, LIMITS)
    timed = TimeoutMiddleware(bounded, LIMITS.request_seconds)
    return ReadinessMiddleware(timed, lambda: Health(True, "ok"))


@contextlib.contextmanager
def listening(loop: BackgroundLoop, app: ASGIApp, limits: HttpLimits) -> Iterator[int]:
    """A server of the application, by its port."""
    server, listener = http_server(app, limits), socket.create_server(("127.0.0.1", 0))

    async def begin() -> "asyncio.Task[None]":
        return asyncio.create_task(server.serve([listener]))

    async def end() -> None:
        server.should_exit = True
        await serving

    serving = loop.run(begin())
    yield listener.getsockname()[1]
    loop.run(end())


@pytest.fixture(scope="module")
def port(loop: BackgroundLoop, gate: ReadinessMiddleware) -> Iterator[int]:
    with listening(loop, LingeringCloseMiddleware(gate, LIMITS), LIMITS) as port:
        yield port


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
    opened: list[socket.socket] = []

    def begin(sent: bytes = b"") -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=20))
        opened[-1].sendall(sent)
        return opened[-1]

    yield begin
    for connection in opened:
        connection.close()


def read_to_end(connection: socket.socket) -> bytes:
    """What comes until the server closes; a reset is a way of closing."""
    received = b""
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return received
        if not data:
            return received
        received += data


def answered(connection: socket.socket) -> bytes:
    """The whole answer to a request without a body; the connection stays."""
    connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        data = connection.recv(1000)
        assert data, "the server closed"
        answer += data
    return answer


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"y" * 10_000)


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


def error_of(answer: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return error


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@contextlib.contextmanager
def trickle(connection: socket.socket, piece: bytes) -> Iterator[None]:
    """Send a piece every 50 ms from the side, so that the connection is never silent."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.05):
            try:
                connection.sendall(piece)
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_good_request_is_served_and_the_connection_kept(connect: Connect) -> None:
    connection = connect()
    for _ in range(3):
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\nhi")
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += connection.recv(1000)
        assert status_of(answer) == 200
        assert b"\r\nhi\r\n" in answer
        assert b"server:" not in answer.lower()


@pytest.mark.parametrize("begin", [b"", b"POST", HEAD, b"\r\n"])
def test_half_a_request_is_not_waited_for(begin: bytes, connect: Connect) -> None:
    with within(5):
        answer = read_to_end(connect(begin))
    assert (status_of(answer), error_of(answer)["code"]) == (408, "timeout")


@pytest.mark.parametrize("piece", [b"\r\n", b"X: y\r\n"])
def test_a_trickle_of_headers_gains_no_time(piece: bytes, connect: Connect) -> None:
    connection = connect(HEAD)
    with within(5), trickle(connection, piece if piece != b"\r\n" else b"X"):
        assert status_of(read_to_end(connection)) == 408


def test_a_kept_connection_gains_no_time_either(connect: Connect) -> None:
    """After an answer uvicorn waits for the next request, but any byte used to end that wait for
    good.
    """
    connection = connect(HEAD + b"Content-Length: 0\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    with within(5), trickle(connection, b"\r\n"):
        assert b"408" in read_to_end(connection)


def test_a_connection_is_kept_for_longer_than_clients_keep_it() -> None:
    """Pools let go of an idle connection after 5 to 60 seconds. A server that is sooner closes one
    just as a request is sent on it.
    """
    assert HttpLimits().keep_alive_seconds == 75
    assert http_server(application, HttpLimits()).config.timeout_keep_alive == 75
    kept = http_server(application, HttpLimits(keep_alive_seconds=9))
    assert kept.config.timeout_keep_alive == 9


def test_the_time_of_a_request_is_not_that_of_the_pause_behind_it(connect: Connect) -> None:
    """The cut of readers that stall fell on connections that had nothing left to read, too."""
    connection = connect()
    assert status_of(answered(connection)) == 200
    time.sleep(LIMITS.request_seconds + 0.3)
    assert status_of(answered(connection)) == 200


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"X: " + b"y" * 3000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(400)) + b"\r\n",
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"X: " + b"y" * 100_000,
        b"GET /" + b"a" * 100_000,
    ],
    ids=["one large", "many", "a long path", "one without an end", "a path without an end"],
)
def test_large_headers_are_rejected(sent: bytes, connect: Connect) -> None:
    answer = read_to_end(connect(sent))
    assert (status_of(answer), error_of(answer)["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"bad header\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400_in_the_usual_shape(sent: bytes, connect: Connect) -> None:
    answer = read_to_end(connect(sent))
    assert (status_of(answer), error_of(answer)["code"]) == (400, "invalid_http")


@pytest.mark.parametrize(
    "chunk",
    [b"zz\r\n", b"-1\r\n", b"5\r\nhi\r\n", b"ffffffffffffffffff\r\n", b"5;\x00\r\nhello\r\n"],
)
def test_chunked_nonsense_ends_the_connection(chunk: bytes, connect: Connect) -> None:
    with within(5):
        answer = read_to_end(connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk))
    assert b" 200 " not in answer.partition(b"\r\n")[0]


def test_a_body_in_chunks_is_read_up_to_the_limit(connect: Connect) -> None:
    connection = connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    with within(5):
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        answer = read_to_end(connection)
    assert status_of(answer) == 413


@pytest.mark.parametrize(
    "endless", [b"1;extension=", b"0\r\nTrailer: "], ids=["extension", "trailer"]
)
def test_what_frames_a_body_has_an_end(endless: bytes, connect: Connect) -> None:
    """Bytes that are not of the body, and so not of the body's limit."""
    connection = connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + endless)
    with within(5), pytest.raises((ConnectionResetError, BrokenPipeError)):
        send_for_ever(connection)


def test_a_trickling_body_is_not_waited_for(connect: Connect) -> None:
    connection = connect(HEAD + b"Content-Length: 4000\r\n\r\n")
    with within(5), trickle(connection, b"x"):
        answer = read_to_end(connection)
    assert (status_of(answer), error_of(answer)["code"]) == (408, "timeout")


def test_a_body_that_is_rejected_is_not_read_to_its_end(connect: Connect) -> None:
    """The answer reaches a client that is still writing."""
    connection = connect(HEAD + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 20_000)
    with within(5):
        answer = read_to_end(connection)
    assert (status_of(answer), error_of(answer)["code"]) == (413, "body_too_large")


def test_a_reader_that_stalls_is_cut(
    connect: Connect, gate: ReadinessMiddleware, loop: BackgroundLoop
) -> None:
    """It takes nothing; the server writes until every buffer is full, and then waits for the limit
    and no longer.
    """
    connection = connect(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(100)
    with within(10):
        loop.run(gate.wait_until_idle())
        assert not read_to_end(connection).endswith(b"0\r\n\r\n")


def test_a_reader_that_leaves_is_noticed(
    connect: Connect, gate: ReadinessMiddleware, loop: BackgroundLoop
) -> None:
    connection = connect(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(100)
    assert gate.in_progress == 1
    with within(0.9):  # sooner than the limit
        connection.close()
        loop.run(gate.wait_until_idle())


def test_connections_have_a_number(connect: Connect, loop: BackgroundLoop) -> None:
    """One too many is told so; the place of one that closes is free again."""
    held = [connect(HEAD) for _ in range(LIMITS.connections)]
    answer = read_to_end(connect())
    assert (status_of(answer), error_of(answer)["code"]) == (503, "too_many_connections")
    for connection in held:
        read_to_end(connection)  # they ran into the limit on headers
        connection.close()
    assert connect(HEAD + b"Content-Length: 0\r\n\r\n").recv(1000).startswith(b"HTTP/1.1 200")


def test_a_connection_without_a_request_makes_room(connect: Connect) -> None:
    """Clients that keep theirs must not keep others out; who waited longest goes."""
    kept = []
    for _ in range(LIMITS.connections):
        kept.append(connect())
        assert status_of(answered(kept[-1])) == 200
    assert status_of(answered(connect())) == 200
    assert kept[0].recv(1000) == b""
    assert status_of(answered(kept[1])) == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_urllib_reads_the_error_that_came_amid_its_body(
    loop: BackgroundLoop, chunked: bool
) -> None:
    """It sends all of a body before it reads, and used to end in a broken pipe."""
    limits = HttpLimits(body_bytes=1_000_000)
    app = LingeringCloseMiddleware(BodyLimitMiddleware(application, limits), limits)
    with listening(loop, app, limits) as port:
        body = iter([b"x" * 100_000] * 120) if chunked else b"x" * 12_000_000
        request = urllib.request.Request(f"http://127.0.0.1:{port}/echo", data=body, method="POST")
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=60)
        with raised.value as answer:
            assert answer.code == 413
            assert json.loads(answer.read())["error"]["code"] == "body_too_large"


def test_requests_that_were_sent_ahead_are_answered_in_order(connect: Connect) -> None:
    sent = b"".join(HEAD + b"Content-Length: 1\r\n\r\n%d" % number for number in range(5))
    answer = read_to_end(connect(sent + HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\n5"))
    bodies = [part.split(b"\r\n\r\n")[1] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"1\r\n%d\r\n0" % number for number in range(6)]
