"""Clients of every kind that a server meets, patient and rude ones. Each action is one visit; what
it returns is how that went.

An action checks whatever it gets, and fails where an answer is none that may come: so nothing but
200s, refusals that were deserved, and 429s under load.
"""

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from raw_http import Answer, AnswerReader, Connection, ask, connected, request_bytes
from wrong_requests import wrong_requests

MODEL = "lively"
CONTEXT = 96
WORDS = [
    "the",
    "llama",
    "reads",
    "old",
    "pages",
    "über",
    "naïve",
    "東京",
    "мир",
    "🦙",
    "is",
    "was",
    "near",
    "far",
]
STALLED_SECONDS = 7.5
"""For which `never_reads` waits: longer than the server lets a request take."""
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Known:
    """A prompt and what the model says to it, alone and greedily."""

    prompt: list[int]
    max_tokens: int
    text: str
    finish: str

    def request(self, **more: Any) -> dict[str, Any]:
        return {
            "model": MODEL,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            **more,
        }

    def check(self, choice: tuple[str, str]) -> None:
        assert choice == (self.text, self.finish), f"{self} was answered by {choice}"


@dataclass
class Tally:
    """What all clients together have seen."""

    visits: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: int = 0
    """Answers that were known before, complete and equal."""
    slowest_answer: float = 0.0
    slowest_health: float = 0.0
    """Seconds, both."""


def choices_of(answer: Answer, stream: bool = False) -> list[tuple[str, str]]:
    """The texts of a completion, each with the reason why it ended."""
    if not stream:
        return [(choice["text"], choice["finish_reason"]) for choice in answer.json["choices"]]
    *events, last = answer.events
    assert last == "[DONE]", answer
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for choice in (choice for event in events for choice in json.loads(event)["choices"]):
        assert choice["index"] not in reasons, f"something came after the end: {choice}"
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"] is not None:
            reasons[choice["index"]] = choice["finish_reason"]
    return [(texts[index], reasons[index]) for index in sorted(texts)]


class Client:
    """One visitor after another, chosen by `rng`."""

    def __init__(self, port: int, rng: random.Random, known: Sequence[Known], tally: Tally) -> None:
        self._port, self._rng, self._known, self._tally = port, rng, known, tally

    async def visit(self) -> None:
        """Do one thing."""
        (action,) = self._rng.choices(list(ACTIONS), list(ACTIONS.values()))
        self._tally.visits[action.__name__, await action(self)] += 1

    # Those that know what is right

    async def known_whole(self) -> str:
        known, n = self._rng.choice(self._known), self._rng.choice((1, 1, 1, 3))
        return self._judge_known(await self._ask(TEXT, known.request(n=n)), known, n)

    async def known_streamed(self) -> str:
        known, n = self._rng.choice(self._known), self._rng.choice((1, 1, 1, 3))
        return self._judge_known(
            await self._ask(TEXT, known.request(n=n, stream=True)), known, n, stream=True
        )

    async def known_kept(self) -> str:
        """Several requests on one connection, one after the other."""
        async with connected(self._port) as connection:
            for known in self._rng.choices(self._known, k=3):
                await connection.send(request_bytes("POST", TEXT, known.request()))
                outcome = self._judge_known(await connection.answer(), known)
        return outcome

    async def known_pipelined(self) -> str:
        """Several requests at once on one connection."""
        several = self._rng.choices(self._known, k=3)
        async with connected(self._port) as connection:
            await connection.send(
                b"".join(request_bytes("POST", TEXT, known.request()) for known in several)
            )
            answers = await connection.answers(*["POST"] * len(several))
        return max(
            self._judge_known(answer, known) for answer, known in zip(answers, several, strict=True)
        )

    async def known_slowly_read(self) -> str:
        """A stream that is taken in bit by bit, with pauses."""
        known, received = self._rng.choice(self._known), b""
        async with connected(self._port, narrow=True) as connection:
            await connection.send(
                request_bytes("POST", TEXT, known.request(stream=True), b"Connection: close")
            )
            while data := await connection.receive(self._rng.randint(1, 500)):
                received += data
                await asyncio.sleep(self._rng.uniform(0, 0.02))
        return self._judge_known(Answer.of(received), known, stream=True)

    async def known_slowly_sent(self) -> str:
        """A request that comes in pieces."""
        known = self._rng.choice(self._known)
        request = request_bytes("POST", TEXT, known.request(), b"Expect: 100-continue")
        cuts = sorted(self._rng.sample(range(1, len(request)), k=5))
        async with connected(self._port) as connection:
            for begin, end in zip([0, *cuts], [*cuts, len(request)], strict=True):
                await connection.send(request[begin:end])
                await asyncio.sleep(self._rng.uniform(0, 0.01))
            return self._judge_known(await connection.answer(), known)

    def _judge_known(self, answer: Answer, known: Known, n: int = 1, stream: bool = False) -> str:
        if answer.status == 200:
            choices = choices_of(answer, stream)
            assert len(choices) == n
            for choice in choices:
                known.check(choice)
            self._tally.right += n
        return self._judge(answer)

    # Those that take what comes

    async def chat(self) -> str:
        rng = self._rng
        roles = ["user", "assistant"] * rng.choice((0, 0, 1)) + ["user"]
        messages = [{"role": role, "content": self._words()} for role in roles]
        logprobs = rng.choice(({}, {"logprobs": True, "top_logprobs": 3}))
        return self._judge(
            await self._ask(
                CHAT, {"model": MODEL, "messages": messages, **logprobs, **self._options()}
            )
        )

    async def completion(self) -> str:
        rng = self._rng
        ids = [
            rng.choices(range(256), k=rng.choice((1, 5, 15, 16, 17, 60, 95, 96, 300)))
            for _ in range(rng.choice((1, 1, 2)))
        ]
        prompt = rng.choice((ids, self._words()))
        more = rng.choice(({}, {"echo": True, "logprobs": 2}, {"prompt_logprobs": 1}))
        return self._judge(
            await self._ask(TEXT, {"model": MODEL, "prompt": prompt, **more, **self._options()})
        )

    async def constrained(self) -> str:
        """An answer that has to look like something; cut off by the length, it is the beginning of
        that.
        """
        schema = {
            "type": "object",
            "properties": {"far": {"type": "boolean"}},
            "required": ["far"],
            "additionalProperties": False,
        }
        kinds: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
            ({"type": "regex", "regex": "(near|far)"}, {"near", "far"}.__contains__),
            (
                {"type": "json_schema", "json_schema": {"name": "far", "schema": schema}},
                lambda text: set(json.loads(text)) == {"far"},
            ),
        ]
        kind, fits = self._rng.choice(kinds)
        body = {
            "model": MODEL,
            "prompt": self._words(3),
            "response_format": kind,
            "max_tokens": self._rng.randint(1, 40),
        }
        answer = await self._ask(TEXT, body)
        if answer.status == 200:
            ((text, finish),) = choices_of(answer)
            assert finish == "length" or fits(text), text
        return self._judge(answer)

    async def embedding(self) -> str:
        answer = await self._ask(
            "/v1/embeddings", {"model": MODEL, "input": [self._words(), self._words(1)]}
        )
        if answer.status == 200:
            for one in answer.json["data"]:
                assert math.hypot(*one["embedding"]) > 0.999
        return self._judge(answer)

    async def tokens(self) -> str:
        text = self._words(self._rng.choice((1, 10, 5000)))
        answer = await self._ask(
            "/tokenize", {"model": MODEL, "prompt": text, "add_special_tokens": False}
        )
        if answer.status == 200:
            answer = await self._ask(
                "/detokenize", {"model": MODEL, "tokens": answer.json["tokens"]}
            )
        if answer.status == 200:
            assert answer.json["prompt"] == text
        return self._judge(answer)

    async def health(self) -> str:
        begun = time.monotonic()
        answer = await ask(self._port, "GET", "/health")
        assert (answer.status, answer.json["status"]) == (200, "ok"), answer
        self._tally.slowest_health = max(self._tally.slowest_health, time.monotonic() - begun)
        return "200"

    async def metrics(self) -> str:
        answer = await ask(self._port, "GET", "/metrics")
        assert answer.status == 200
        assert b"puna_sequences_running" in answer.body
        return "200"

    def _judge(self, answer: Answer) -> str:
        """The status, of an answer that may come to a good request."""
        if answer.status == 429:
            assert answer.error["code"] == "rate_limit_exceeded"
            assert int(answer.headers["retry-after"]) > 0
        elif answer.status == 400:
            assert answer.error["code"] == "context_length_exceeded", answer
        else:
            assert answer.status == 200, answer
            if answer.headers["content-type"].startswith("text/event-stream"):
                assert answer.events[-1] == "[DONE]", answer
        return str(answer.status)

    # Those that ask for what there is not

    async def wrong(self) -> str:
        code, request = self._rng.choice(wrong_requests(MODEL))
        async with connected(self._port) as connection:
            await connection.send(request)
            answer = await connection.answer()
        assert answer.status == 429 or answer.error["code"] == code, answer
        return str(answer.status)

    # Those that do not wait for the end

    async def leaves_before_the_answer(self) -> str:
        async with connected(self._port) as connection:
            await connection.send(request_bytes("POST", *self._long_request()))
            await asyncio.sleep(self._rng.choice((0, self._rng.uniform(0, 0.1))))
            return self._leave(connection)

    async def leaves_amid_the_answer(self) -> str:
        async with connected(self._port) as connection:
            await connection.send(request_bytes("POST", *self._long_request(stream=True)))
            await connection.receive(self._rng.randint(1, 5000))
            await asyncio.sleep(self._rng.choice((0, self._rng.uniform(0, 0.1))))
            return self._leave(connection)

    async def leaves_amid_the_request(self) -> str:
        request = request_bytes("POST", *self._long_request())
        async with connected(self._port) as connection:
            await connection.send(request[: self._rng.randrange(len(request))])
            await asyncio.sleep(self._rng.uniform(0, 0.1))
            return self._leave(connection)

    def _leave(self, connection: Connection) -> str:
        if self._rng.random() < 0.5:
            connection.reset()
            return "reset"
        connection.close()
        return "closed"

    async def never_ends_its_request(self) -> str:
        """It sends half and waits: that takes the server's patience, and ends in a 408."""
        request = request_bytes("POST", TEXT, {"model": MODEL, "prompt": "x" * 1000})
        async with connected(self._port) as connection:
            await connection.send(request[: self._rng.randrange(1, len(request))])
            answer = await connection.answer()
        assert answer.error["code"] == "timeout"
        return str(answer.status)

    async def never_reads(self) -> str:
        """It takes nothing of streams that are larger than all buffers, and then what these hold:
        the server has cut the rest.
        """
        more = {"n": 4, "logprobs": True, "top_logprobs": 20, "max_tokens": 60, "ignore_eos": True}
        path, body = self._long_request(stream=True)
        requests = [request_bytes("POST", path, body | more)] * self._rng.choice((1, 2))
        reader = AnswerReader(["POST"] * len(requests))
        async with connected(self._port, narrow=True) as connection:
            await connection.send(b"".join(requests))
            await asyncio.sleep(STALLED_SECONDS)
            while data := await connection.receive():
                reader.feed(data)
        assert all(answer.status == 429 for answer in reader.complete), (
            "a stream was small enough for the buffers"
        )
        return "429" if reader.done else "cut"

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Answer:
        begun = time.monotonic()
        answer = await ask(self._port, "POST", path, body)
        self._tally.slowest_answer = max(self._tally.slowest_answer, time.monotonic() - begun)
        return answer

    def _words(self, count: int | None = None) -> str:
        return " ".join(
            self._rng.choices(
                WORDS, k=self._rng.choice((1, 3, 8, 12, 100)) if count is None else count
            )
        )

    def _options(self) -> dict[str, Any]:
        rng = self._rng
        return {
            "max_tokens": rng.randint(1, 40),
            "stream": rng.random() < 0.5,
            "n": rng.choice((1, 1, 2, 4)),
            "temperature": rng.choice((0, 0.7, 1)),
            "top_p": rng.choice((1, 0.9)),
            "top_k": rng.choice((None, 20)),
            "frequency_penalty": rng.choice((0, 0.5)),
            "stop": rng.choice((None, ["a", "東"])),
            "seed": rng.choice((None, 5)),
        }

    def _long_request(self, stream: bool | None = None) -> tuple[str, dict[str, Any]]:
        stream = self._rng.random() < 0.5 if stream is None else stream
        content = self._words(2)
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 60,
            "stream": stream,
        }
        return CHAT, body


Action = Callable[[Client], Awaitable[str]]

ACTIONS: Mapping[Action, int] = MappingProxyType(
    {
        Client.known_whole: 12,
        Client.known_streamed: 12,
        Client.known_kept: 4,
        Client.known_pipelined: 4,
        Client.known_slowly_read: 6,
        Client.known_slowly_sent: 4,
        Client.chat: 12,
        Client.completion: 12,
        Client.constrained: 6,
        Client.embedding: 4,
        Client.tokens: 4,
        Client.health: 6,
        Client.metrics: 3,
        Client.wrong: 10,
        Client.leaves_before_the_answer: 8,
        Client.leaves_amid_the_answer: 8,
        Client.leaves_amid_the_request: 6,
        Client.never_ends_its_request: 1,
        Client.never_reads: 1,
    }
)
"""What clients do, and how often."""
