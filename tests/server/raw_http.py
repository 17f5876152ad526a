"""HTTP over bare sockets: a client that may do everything that no library lets it do, and reads
answers with h11.

h11 is strict and shares no code with httptools, which the server parses with.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11

HOST = b"Host: localhost\r\n"


def request_bytes(method: str, path: str, body: Any = None, *headers: bytes) -> bytes:
    """A whole request; a body that is not bytes is sent as JSON. headers: lines without their
    ends.
    """
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode("utf-8")
    lines = [
        f"{method} {path} HTTP/1.1\r\n".encode("latin-1"),
        HOST,
        *(header + b"\r\n" for header in headers),
    ]
    if body is not None:
        lines.append(b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body))
    return b"".join((*lines, b"\r\n", body or b""))


@dataclass
class Answer:
    """One answer of a server, or what has come of it so far."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @classmethod
    def of(cls, received: bytes) -> "Answer":
        """What is the whole of one answer."""
        reader = AnswerReader()
        reader.feed(received)
        assert reader.complete, f"the answer ends too soon: {reader.current}"
        return reader.complete[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape; all its parts must be there."""
        assert self.headers["content-type"] == "application/json", self
        assert list(self.json) == ["error"], self
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, self
        assert error["type"] == (
            "server_error" if self.status >= 500 else "invalid_request_error"
        ), self
        return error

    @property
    def events(self) -> list[str]:
        """What the whole server-sent events of a stream say."""
        *events, _ = self.body.decode("utf-8").split("\n\n")
        events = [event for event in events if not event.startswith(":")]
        assert all(event.startswith("data: ") for event in events), self
        return [event.removeprefix("data: ") for event in events]


@dataclass
class AnswerReader:
    """Cuts what a server sends into the answers to requests of these methods. Raises
    h11.RemoteProtocolError for what is no HTTP.
    """

    methods: Sequence[str] = ("GET",)
    complete: list[Answer] = field(default_factory=list)
    current: Answer | None = None
    """The one that has begun."""
    closed: bool = False
    """Whether the server has closed, be it in the middle of an answer."""

    def __post_init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT)
        self._ask()

    @property
    def done(self) -> bool:
        """Whether nothing more is owed: all answers are there, or the last one said that no other
        will come.
        """
        return len(self.complete) == len(self.methods) or self._connection.their_state in (
            h11.MUST_CLOSE,
            h11.CLOSED,
        )

    def feed(self, data: bytes) -> None:
        """Some bytes; none: the server has closed."""
        if not data:
            self.closed = True
            return
        self._connection.receive_data(data)
        while True:
            event = self._connection.next_event()
            match event:
                case h11.InformationalResponse():
                    pass  # such as 100, which comes before the real one
                case h11.Response():
                    headers = {
                        name.decode("ascii"): value.decode("latin-1")
                        for name, value in event.headers
                    }
                    self.current = Answer(event.status_code, headers)
                case h11.Data():
                    assert self.current is not None
                    self.current.body += event.data
                case h11.EndOfMessage():
                    assert self.current is not None
                    self.complete.append(self.current)
                    self.current = None
                    if self.done:
                        return
                    self._connection.start_next_cycle()
                    self._ask()
                case _:
                    return

    def _ask(self) -> None:
        """h11 reads an answer only to a request that it has seen."""
        method = self.methods[len(self.complete)]
        self._connection.send(
            h11.Request(method=method, target="/", headers=[("Host", "localhost")])
        )
        self._connection.send(h11.EndOfMessage())


class Connection:
    """A connection to a port of this machine, whose every send and receive is the caller's own."""

    def __init__(self, port: int, narrow: bool = False) -> None:
        """narrow: some 100 kB are on their way at most, so a server that sends more notices that
        nobody reads.
        """
        self._port = port
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if narrow:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # the other end's buffer grows with it
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)

    async def open(self) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self, count: int = 1 << 16) -> bytes:
        """What is there, at most `count` bytes; none at the end. A reset is a way of closing."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, count)
        except ConnectionError:
            return b""

    async def answers(self, *methods: str, seconds: float = 60.0) -> list[Answer]:
        """The answers to requests of these methods, all complete."""
        reader = AnswerReader(methods)
        async with asyncio.timeout(seconds):
            while not reader.done:
                data = await self.receive()
                reader.feed(data)
                assert data or reader.done, (
                    f"the server closed after {len(reader.complete)} of {len(methods)} answers:"
                    f" {reader.current}"
                )
        return reader.complete

    async def answer(self, method: str = "POST", seconds: float = 60.0) -> Answer:
        """The answer to a request of this method."""
        (answer,) = await self.answers(method, seconds=seconds)
        return answer

    def say_no_more(self) -> None:
        """Close this direction; the other stays."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close without a word of farewell: what is on its way is lost, and the other end gets a
        reset.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Closing twice is no error."""
        self._socket.close()


@contextlib.asynccontextmanager
async def connected(port: int, narrow: bool = False) -> AsyncIterator[Connection]:
    """An open connection, closed in the end."""
    connection = Connection(port, narrow)
    try:
        await connection.open()
        yield connection
    finally:
        connection.close()


async def ask(
    port: int, method: str, path: str, body: Any = None, *headers: bytes, seconds: float = 60.0
) -> Answer:
    """The answer to one request on a connection of its own."""
    async with connected(port) as connection:
        await connection.send(request_bytes(method, path, body, *headers))
        return await connection.answer(method, seconds)
