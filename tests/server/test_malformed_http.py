"""Whatever comes over a connection, the server answers in HTTP or closes, never fails, and goes on
serving everybody else.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import h11
import pytest
from malformed_http import BODY, GOOD, SPECIAL, broken
from raw_http import Answer, AnswerReader, Connection, ask, connected, request_bytes
from served import ServerProcess, served
from soak import settled

RANDOM_CASES = 800
AT_ONCE = 24
PATIENCE_SECONDS = 20.0
"""For a case that the limits below should end within a second; most of it is for machines with
other things to do.
"""
LIMITS = (
    "header_seconds=0.5",
    "body_seconds=0.5",
    "request_seconds=10",
    "requests_per_minute=1000000",
    "burst=1000000",
)
STATUSES = {200, 400, 403, 404, 405, 408, 413, 415, 431}


@pytest.fixture(scope="module")
def server(tiny_run: Path) -> Iterator[ServerProcess]:
    limits = [option for limit in LIMITS for option in ("--limit", limit)]
    with served(tiny_run / "model", "--name", "tiny", *limits) as started:
        yield started


async def answers_to(port: int, sent: bytes, rng: random.Random) -> list[Answer]:
    """What comes back for these bytes up to the first whole answer, and what more has come by then.
    None: the server closed.
    """
    reader = AnswerReader(["HEAD" if sent.startswith(b"HEAD") else "GET"] + ["GET"] * 200)
    async with connected(port) as connection:
        with contextlib.suppress(ConnectionError):  # the server had enough before all was sent
            await send(connection, sent, rng)
        while not (reader.complete or reader.closed):
            reader.feed(await connection.receive())
        connection.say_no_more()
        while not reader.closed:
            reader.feed(await connection.receive())
    return reader.complete


async def send(connection: Connection, sent: bytes, rng: random.Random) -> None:
    """All at once, in two pieces, or byte by byte."""
    size = rng.choice((len(sent), len(sent) // 2, 1 if len(sent) < 500 else 1000)) or 1
    for begin in range(0, len(sent), size):
        await connection.send(sent[begin : begin + size])
        await asyncio.sleep(0)


async def attempt(port: int, name: str, sent: bytes, rng: random.Random) -> int:
    """One case, and then a look at whether the server is well. Returns the status of the first
    answer.
    """
    case = f"{name}: {sent[:300]!r}"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            answers = await answers_to(port, sent, rng)
    except (h11.RemoteProtocolError, TimeoutError) as error:
        raise AssertionError(f"{error!r} at {case}") from error
    assert answers, f"the server closed without a word at {case}"
    for answer in answers:
        assert answer.status in STATUSES, f"{answer} to {case}"
        if answer.status >= 400 and not sent.startswith(b"HEAD"):
            assert answer.error["message"], case
    health = await ask(port, "GET", "/health", seconds=PATIENCE_SECONDS)
    assert (health.status, health.json["status"]) == (200, "ok"), case
    return answers[0].status


async def attempt_all(port: int, cases: Sequence[tuple[str, bytes]]) -> list[int]:
    """What came of each, many at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, name: str, sent: bytes) -> int:
        async with places:
            return await attempt(port, name, sent, random.Random(number))

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(one(number, name, sent)) for number, (name, sent) in enumerate(cases)
        ]
    return [task.result() for task in tasks]


def statuses_of(server: ServerProcess, cases: Sequence[tuple[str, bytes]]) -> list[int]:
    """What came of each, if afterwards the server is as before: nothing in progress, no failure in
    its log, and the same answers.
    """

    async def run() -> list[int]:
        before = await ask(server.port, "POST", "/v1/completions", BODY)
        statuses = await attempt_all(server.port, cases)
        await settled(server)
        after = await ask(server.port, "POST", "/v1/completions", BODY)
        assert before.json["choices"] == after.json["choices"]
        return statuses

    statuses = asyncio.run(run())
    assert server.log == ""
    return statuses


def test_good_requests_are_served(server: ServerProcess) -> None:
    """Those that the other cases are made of."""
    assert statuses_of(server, [("good", request) for request in GOOD]) == [
        200,
        200,
        200,
        405,
        200,
        200,
        200,
        200,
    ]


def test_requests_with_a_history(server: ServerProcess) -> None:
    assert set(statuses_of(server, SPECIAL)) == STATUSES


def test_requests_broken_at_random(server: ServerProcess) -> None:
    cases = [
        (f"case {number}", broken(random.Random(f"case {number}")))
        for number in range(RANDOM_CASES)
    ]
    statuses = Counter(statuses_of(server, cases))
    assert 0 < statuses[200] < RANDOM_CASES / 2, statuses


def test_a_request_may_come_slowly(server: ServerProcess) -> None:
    """Byte by byte, but within the limits."""

    async def slowly() -> Answer:
        async with connected(server.port) as connection:
            for byte in request_bytes("POST", "/v1/completions", BODY):
                await connection.send(bytes([byte]))
                await asyncio.sleep(0.001)
            return await connection.answer()

    assert asyncio.run(slowly()).json["choices"][0]["finish_reason"] == "length"
