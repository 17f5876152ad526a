"""Streams in silence: headers and comments while the model is busy with others, and errors that
come before the first token.

No test waits for a time: what is slow goes on as soon as the silence was broken.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from asgi_calls import Answer, call, http_scope
from openai import APIError, AsyncOpenAI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.api import streaming
from puna.api.error_response import ApiError
from puna.api.responses import CompletionChoice, TextCompletion
from puna.api.streaming import EventStream

COMMENT = b": waiting\n\n"
TOO_LONG = ApiError(400, "prompt: too long", param="prompt", code="context_length_exceeded")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEADERS_SECONDS", 0.01)
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.01)


def event(text: str) -> TextCompletion:
    choice = CompletionChoice(index=0, text=text, logprobs=None, finish_reason=None)
    return TextCompletion(
        id="cmpl-1", object="text_completion", created=1, model="m", choices=[choice]
    )


class Heard:
    """An application that streams what `events` gives, and tells it which comments were sent."""

    def __init__(self, before: int, between: int, error: Exception | None = None) -> None:
        """before, between: comments to wait for before the first event, and before the second.
        error: raised instead of the first.
        """
        self._before, self._between, self._error = before, between, error
        self._comments = asyncio.Semaphore(0)

    async def _events(self) -> AsyncGenerator[TextCompletion]:
        for _ in range(self._before):
            await self._comments.acquire()
        if self._error is not None:
            raise self._error
        yield event("a")
        for _ in range(self._between):
            await self._comments.acquire()
        yield event("b")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def listening(message: Message) -> None:
            await send(message)
            if message.get("body") == COMMENT:
                self._comments.release()

        await EventStream(self._events(), 60)(scope, receive, listening)


def streamed(app: ASGIApp) -> Answer:
    return asyncio.run(call(app, http_scope()))


def texts(answer: Answer) -> list[Any]:
    """The events, without comments."""
    data = [each for each in answer.body.split(b"\n\n") if each.startswith(b"data: ")]
    return [each.removeprefix(b"data: ") for each in data]


def test_silence_is_broken_before_the_first_event_and_between_two() -> None:
    answer = streamed(Heard(2, 3))
    first, _, rest = answer.body.partition(b"data: ")
    assert answer.status == 200
    assert answer.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert first.count(COMMENT) >= 2
    assert rest.count(COMMENT) >= 3
    assert [json.loads(text)["choices"][0]["text"] for text in texts(answer)[:-1]] == ["a", "b"]
    assert texts(answer)[-1] == b"[DONE]"


def test_no_comment_is_sent_where_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEADERS_SECONDS", 60)
    assert COMMENT not in streamed(Heard(0, 0)).body


def test_an_error_before_the_headers_is_an_answer_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "HEADERS_SECONDS", 60)
    with pytest.raises(ApiError) as raised:
        streamed(Heard(0, 0, TOO_LONG))
    assert raised.value is TOO_LONG


def test_an_error_behind_the_headers_is_an_event() -> None:
    answer = streamed(Heard(1, 0, TOO_LONG))
    (text,) = texts(answer)
    assert json.loads(text) == json.loads(TOO_LONG.body().to_json())
    assert answer.status == 200


def test_a_caller_who_leaves_in_silence_ends_the_stream() -> None:
    async def watch() -> None:
        sent: list[Message] = []
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            gone.set()

        before = asyncio.all_tasks()
        await asyncio.wait_for(Heard(10**6, 0)(http_scope(), receive, send), 10)
        assert asyncio.all_tasks() == before, "nothing beats on"
        assert sent[0]["type"] == "http.response.start"
        assert all(message["body"] == COMMENT for message in sent[1:])

    asyncio.run(watch())


async def read_by_openai(app: ASGIApp) -> list[str]:
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http,
        AsyncOpenAI(base_url="http://puna/v1", api_key="x", http_client=http) as client,
    ):
        chunks = await client.completions.create(model="m", prompt="x", stream=True)
        return [chunk.choices[0].text async for chunk in chunks]


def test_openais_client_skips_comments() -> None:
    assert asyncio.run(read_by_openai(Heard(2, 2))) == ["a", "b"]


def test_openais_client_raises_an_error_that_came_behind_the_headers() -> None:
    with pytest.raises(APIError, match="prompt: too long") as raised:
        asyncio.run(read_by_openai(Heard(1, 0, TOO_LONG)))
    assert raised.value.code == "context_length_exceeded"
