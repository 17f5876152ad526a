"""Request log middleware: an id for every answer and a line for every request, without prompts."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from asgi_calls import Answer, call, http_scope
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.api.responses import PromptUsage
from puna.server.middleware.request_log import LogFormat, RequestLogMiddleware

FIELDS = {
    "time",
    "id",
    "method",
    "path",
    "status",
    "complete",
    "seconds",
    "first_seconds",
    "prompt_tokens",
    "completion_tokens",
}


class Lines(logging.Handler):
    """The lines of a log."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    usage = PromptUsage(prompt_tokens=7, total_tokens=7)
    scope["state"]["usage"] = lambda: usage
    await send({"type": "http.response.start", "status": 202, "headers": []})
    await send({"type": "http.response.body", "body": b"secret answer", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})


async def says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError


def logged(
    app: ASGIApp,
    form: LogFormat = "json",
    headers: Sequence[tuple[bytes, bytes]] = (),
    **scope: Any,
) -> tuple[Answer, str]:
    """The answer, and the one line."""
    lines, log = Lines(), logging.Logger("test")
    log.addHandler(lines)
    layer = RequestLogMiddleware(app, log, form)
    answer = asyncio.run(call(layer, http_scope(headers=headers, **scope)))
    (line,) = lines.written
    return answer, line


def test_a_line_of_json_has_all_that_happened() -> None:
    answer, line = logged(answers, query_string=b"prompt=secret")
    record = json.loads(line)
    assert set(record) == FIELDS
    assert (record["method"], record["path"], record["status"]) == ("POST", "/v1/models", 202)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (7, 0)
    assert record["complete"] is True
    assert 0 <= record["first_seconds"] <= record["seconds"]
    assert record["id"] == answer.headers[b"x-request-id"].decode()
    assert "secret" not in line
    assert answer.body == b"secret answer"


def test_a_line_of_text_has_the_same() -> None:
    _, line = logged(says_nothing, "text")
    values = dict(pair.split("=", 1) for pair in line.split(" "))
    assert set(values) == FIELDS
    assert (values["method"], values["status"]) == ("POST", "499"), "nobody was answered"
    assert (values["complete"], values["prompt_tokens"]) == ("false", "-")


def test_a_stream_that_broke_off_is_told_from_a_whole_one() -> None:
    record = json.loads(logged(breaks_off)[1])
    assert (record["status"], record["complete"]) == (200, False)


def test_a_failure_has_a_line_too() -> None:
    lines, log = Lines(), logging.Logger("test")
    log.addHandler(lines)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(call(RequestLogMiddleware(fails, log), http_scope()))
    assert len(lines.written) == 1


def test_an_id_is_made_where_there_is_none_and_no_log() -> None:
    layer = RequestLogMiddleware(answers)
    ids = {asyncio.run(call(layer, http_scope())).headers[b"x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(len(each) == 32 for each in ids)


@pytest.mark.parametrize("given", [b"a", b"req_12-3.4:5/6+7=@", b"x" * 128])
def test_a_safe_id_is_taken(given: bytes) -> None:
    answer, line = logged(answers, headers=[(b"x-request-id", given)])
    assert answer.headers[b"x-request-id"] == given
    assert json.loads(line)["id"] == given.decode()


@pytest.mark.parametrize(
    "given", [b"", b" ", b"a b", b"a\nb", b'a"b', b"\xff", b"x" * 129, b"\x1b[31m"]
)
def test_an_id_that_could_forge_a_line_is_not(given: bytes) -> None:
    answer, line = logged(answers, headers=[(b"x-request-id", given)])
    assert answer.headers[b"x-request-id"] != given
    assert json.loads(line)["id"] == answer.headers[b"x-request-id"].decode()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_path_stays_on_its_line(form: LogFormat) -> None:
    """And in its field: a path of the caller's may hold anything, percent-decoded."""
    _, line = logged(answers, form, path="/a\nstatus=500 東" + "b" * 9000)
    assert line.isascii()
    assert line.isprintable()
    assert "/a%0Astatus%3D500%20%E6%9D%B1" in line
    assert len(line) < 1000
