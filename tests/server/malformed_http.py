"""Requests that are no good HTTP: ways of breaking good ones, at random but always the same, and
such as have a history.
"""

import random
from collections.abc import Callable, Sequence

from raw_http import HOST, request_bytes

BODY = {"model": "tiny", "prompt": "the llama", "max_tokens": 2, "temperature": 0}
JSON = b"Content-Type: application/json\r\n"
HEAD = b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON


def chunked(body: bytes) -> bytes:
    """A completion whose body comes so, with its frames."""
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body


GOOD: Sequence[bytes] = (
    request_bytes("GET", "/health"),
    request_bytes("GET", "/v1/models/tiny?a=b&c=%20", None, b"Accept: */*", b"User-Agent: someone"),
    request_bytes("HEAD", "/v1/models"),
    request_bytes(
        "OPTIONS",
        "/v1/completions",
        None,
        b"Origin: http://localhost",
        b"Access-Control-Request-Method: POST",
    ),
    request_bytes(
        "POST", "/v1/completions", BODY, b"Accept: application/json", b"Authorization: Bearer x"
    ),
    request_bytes("POST", "/v1/completions", BODY | {"stream": True}, b"Connection: keep-alive"),
    request_bytes("POST", "/tokenize", {"model": "tiny", "prompt": "far"}, b"Expect: 100-continue"),
    chunked(
        b'1b\r\n{"model": "tiny", "prompt":\r\n18;ext="1"\r\n "far", "max_tokens":'
        b" 1}\r\n0\r\nTrailer: x\r\n\r\n"
    ),
)
"""What is served as it is."""

SPECIAL: Sequence[tuple[str, bytes]] = (
    ("nothing but line ends", b"\r\n\r\n\r\n"),
    ("HTTP/0.9", b"GET /health\r\n"),
    ("HTTP/1.0", b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"),
    (
        "HTTP/1.0 that stays",
        b"GET /health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    ),
    ("HTTP/1.2", b"GET /health HTTP/1.2\r\nHost: localhost\r\n\r\n"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    ("HTTP/9.9", b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n"),
    ("HTTP/1.10", b"GET /health HTTP/1.10\r\nHost: localhost\r\n\r\n"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256))),
    ("SOCKS", b"\x05\x01\x00"),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
    ("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("no host", b"GET /health HTTP/1.1\r\n\r\n"),
    ("two hosts", b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n\r\n"),
    ("two equal hosts", b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"),
    ("host of another", b"GET /health HTTP/1.1\r\nHost: example.org\r\n\r\n"),
    ("host with a user", b"GET /health HTTP/1.1\r\nHost: localhost@example.org\r\n\r\n"),
    ("whole address", b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("address of another", b"GET http://example.org/health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("address without a path", b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("no path", b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("path without a slash", b"GET health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("star", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("CONNECT", b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("TRACE", b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("an unknown method", b"BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a method in small letters", b"get /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("invalid percent", b"GET /%zz%1 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("percent of no UTF-8", b"GET /v1/models/%ff%fe%80 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("percent of a NUL", b"GET /v1/models/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("percent of line ends", b"GET /v1/models/%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (
        "percent of dots",
        b"GET /v1/models/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    ("bytes that are no ASCII", b"GET /\xff\xfe\xe6\x9d HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a query of no UTF-8", b"GET /health?%ff=%fe&\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a giant path", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (
        "a giant header",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ),
    (
        "a giant name",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X" * 100_000 + b": y\r\n\r\n",
    ),
    ("a giant method", b"G" * 100_000 + b" /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("many headers", b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n"),
    ("a header without a name", b"GET /health HTTP/1.1\r\nHost: localhost\r\n: y\r\n\r\n"),
    ("a header without a colon", b"GET /health HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n"),
    ("a space before the colon", b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n"),
    ("a folded header", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: y\r\n z\r\n\r\n"),
    ("a NUL in a header", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n"),
    ("no UTF-8 in a header", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: \xff\xfe\r\n\r\n"),
    ("line feeds alone", b"GET /health HTTP/1.1\nHost: localhost\n\n"),
    ("carriage returns alone", b"GET /health HTTP/1.1\rHost: localhost\r\r"),
    (
        "a key of no ASCII",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n\r\n",
    ),
    ("a type of no ASCII", HEAD.replace(b"json", b"\xff") + b"Content-Length: 2\r\n\r\n{}"),
    ("two types", HEAD + JSON + b"Content-Length: 2\r\n\r\n{}"),
    (
        "a body in another charset",
        HEAD.replace(b"json", b"json; charset=utf-16") + b"Content-Length: 4\r\n\r\n{\0}\0",
    ),
    (
        "a packed body",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    ),
    ("a body of no UTF-8", HEAD + b"Content-Length: 4\r\n\r\n\xff\xfe\xfd\xfc"),
    (
        "a body where there should be none",
        b"GET /health HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
    ),
    ("no body", HEAD + b"\r\n"),
    *(
        (f"a length of {length!r}", HEAD + b"Content-Length: " + length + b"\r\n\r\n{}")
        for length in (
            *b"|-1|+2|2,2|2, 3|0x2|2.0|two|2 2|\xb2".split(b"|"),
            b"9" * 12,
            b"9" * 25,
            b"%d" % (2**64 + 2),
        )
    ),
    ("two lengths", HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    ("two equal lengths", HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    (
        "a length and chunks",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ),
    (
        "chunks and a length",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ),
    *(
        (
            f"an encoding of {name!r}",
            HEAD + b"Transfer-Encoding: " + name + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        )
        for name in (
            b"|gzip|gzip, chunked|chunked, gzip|identity|chunked,"
            b" chunked|xchunked|\x0bchunked|Chunked".split(b"|")
        )
    ),
    *(
        (f"a chunk of {size[:20]!r}", chunked(size + b"\r\n{}\r\n0\r\n\r\n"))
        for size in (
            *b"|zz|-2|+2|0x2|2 | 2|2;|2\0".split(b"|"),
            b"2;a=" + b"b" * 50_000,
            b"f" * 15,
            b"f" * 16,
            b"1" + b"0" * 40,
        )
    ),
    ("a chunk that is too short", chunked(b"5\r\n{}\r\n0\r\n\r\n")),
    ("a chunk that is too long", chunked(b"1\r\n{}\r\n0\r\n\r\n")),
    ("chunks that end in line feeds", chunked(b"2\n{}\n0\n\n")),
    ("chunks without an end", chunked(b"2\r\n{}\r\n")),
    ("trailers without an end", chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10)),
    ("a trailer that frames", chunked(b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n")),
    (
        "WebSocket",
        request_bytes(
            "GET",
            "/health",
            None,
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
        ),
    ),
    (
        "an upgrade to HTTP/2",
        request_bytes(
            "GET", "/health", None, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"
        ),
    ),
    (
        "an upgrade with a body",
        request_bytes("POST", "/v1/completions", BODY, b"Connection: Upgrade", b"Upgrade: h2c"),
    ),
    (
        "an upgrade and then another",
        request_bytes("GET", "/health", None, b"Connection: Upgrade", b"Upgrade: h2c") + GOOD[0],
    ),
    (
        "an unknown expectation",
        request_bytes("POST", "/v1/completions", BODY, b"Expect: 200-maybe"),
    ),
    ("a question of the proxy", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + GOOD[0]),
    ("a good one behind line ends", b"\r\n\r\n" + GOOD[0]),
    ("a good one and then nonsense", GOOD[0] + b"\x00nonsense\r\n\r\n"),
    ("a long one and then nonsense", GOOD[4] + b"\x00nonsense\r\n\r\n"),
    ("a stream and then nonsense", GOOD[5] + b"\x00nonsense\r\n\r\n"),
    ("a hundred at once", GOOD[0] * 100),
)
"""What has tripped servers up, each with a name."""

_NASTY = (
    *(bytes([byte]) for byte in b"\0\r\n \t:%,;{\x7f\x0b\xff"),
    b"\r\n",
    b"%0",
    b"\xc3\xa9",
    b"A" * 300,
)


def broken(rng: random.Random) -> bytes:
    """A good request, broken in one or two ways."""
    request = rng.choice(GOOD)
    for _ in range(rng.randint(1, 2)):
        request = rng.choice(_BREAKS)(request, rng)
    return request


def _truncate(request: bytes, rng: random.Random) -> bytes:
    return request[: rng.randrange(len(request) + 1)]


def _insert(request: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(request) + 1)
    return request[:place] + rng.choice(_NASTY) + request[place:]


def _replace(request: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(request) + 1)
    return request[:place] + bytes([rng.randrange(256)]) + request[place + 1 :]


def _delete(request: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(request) + 1)
    return request[:place] + request[place + rng.choice((1, 2, 10)) :]


def _lines(request: bytes, rng: random.Random) -> bytes:
    """A line of the head twice, elsewhere, or not at all."""
    head, end, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    line = rng.choice(lines)
    if rng.random() < 0.5:
        lines.remove(line)
    if rng.random() < 0.7:
        lines.insert(rng.randint(0, len(lines)), line)
    return b"\r\n".join(lines) + end + body


def _line_ends(request: bytes, rng: random.Random) -> bytes:
    return request.replace(
        b"\r\n", rng.choice((b"\n", b"\r", b"\n\r", b"\r\r\n")), rng.choice((1, 2, -1))
    )


def _frame(request: bytes, rng: random.Random) -> bytes:
    """One more header that says where the body ends."""
    length = rng.choice((b"0", b"1", b"5", b"50", b"-1", b"1e3", b"99999999", b"9" * 30))
    header = rng.choice(
        (
            b"Content-Length: " + length,
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"Expect: 100-continue",
        )
    )
    first, end, rest = request.partition(b"\r\n")
    return first + end + header + b"\r\n" + rest


def _follow(request: bytes, rng: random.Random) -> bytes:
    return request + rng.choice([good for good in GOOD if not good.startswith(b"HEAD")])


_BREAKS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _truncate,
    _insert,
    _insert,
    _replace,
    _replace,
    _delete,
    _lines,
    _line_ends,
    _frame,
    _follow,
)
