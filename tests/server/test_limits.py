"""Admission control: rates, concurrent requests and the queue, by a clock that the test turns."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from puna.api.limits import Admission, Limits, TooManyRequests
from puna.config import validate
from puna.errors import ConfigError
from puna.server.http_limits import HttpLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, running: int = 4, **limits: float) -> Admission:
    return Admission(validate(Limits, limits, "limits"), running, clock or Clock())


async def once(gate: Admission, key: str = "a", sequences: int = 1) -> None:
    async with gate.enter(key, sequences):
        pass


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    async def ask() -> None:
        clock = Clock()
        gate = admission(clock, burst=3, requests_per_minute=60)
        for _ in range(3):
            await once(gate)
        with pytest.raises(TooManyRequests, match="60 requests a minute") as rejected:
            await once(gate)
        assert rejected.value.retry_after == 1
        clock.now += 0.99
        with pytest.raises(TooManyRequests):
            await once(gate)
        clock.now += 0.02
        await once(gate)
        clock.now += 3600  # a long pause earns no more than the burst
        for _ in range(3):
            await once(gate)
        with pytest.raises(TooManyRequests):
            await once(gate)

    asyncio.run(ask())


def test_retry_after_says_when_it_will_pass() -> None:
    async def ask() -> None:
        clock = Clock()
        gate = admission(clock, burst=1, requests_per_minute=2)
        await once(gate)
        with pytest.raises(TooManyRequests) as rejected:
            await once(gate)
        assert rejected.value.retry_after == 30
        clock.now += rejected.value.retry_after
        await once(gate)

    asyncio.run(ask())


def test_a_rate_of_0_is_none() -> None:
    """Thousands of short requests in a row, as an evaluation sends them to its own machine; the
    other limits hold all the same.
    """

    async def ask() -> None:
        gate = admission(requests_per_minute=0, burst=3, max_concurrent_requests=1)
        for _ in range(2000):
            await once(gate)
        async with gate.enter("a"):
            with pytest.raises(TooManyRequests, match="in progress"):
                await once(gate)

    asyncio.run(ask())


def test_one_caller_does_not_use_up_the_rate_of_another() -> None:
    async def ask() -> None:
        gate = admission(burst=1)
        await once(gate, "a")
        await once(gate, "b")
        with pytest.raises(TooManyRequests):
            await once(gate, "a")

    asyncio.run(ask())


def test_a_full_queue_rejects_until_a_place_is_free() -> None:
    """Four run and two wait; the seventh is told to come again, whoever asks."""

    async def ask() -> None:
        gate = admission(running=4, queue=2)
        async with AsyncExitStack() as inside:
            for number in range(4):
                await inside.enter_async_context(gate.enter(f"caller {number}"))
            async with gate.enter("pair", 2):
                with pytest.raises(TooManyRequests, match="6 sequences") as rejected:
                    await once(gate, "late")
                assert rejected.value.retry_after >= 1
            await once(gate, "late")

    asyncio.run(ask())


def test_a_place_is_free_again_after_an_error() -> None:
    async def ask() -> None:
        gate = admission(running=1, queue=0)
        with pytest.raises(ZeroDivisionError):
            async with gate.enter("a"):
                raise ZeroDivisionError
        await once(gate)

    asyncio.run(ask())


def test_more_at_once_than_there_are_places_enters_alone() -> None:
    """Refusing it for ever would be a lie: it only has to wait for itself."""

    async def ask() -> None:
        gate = admission(running=2, queue=1)
        await once(gate, sequences=10)
        async with gate.enter("a"):
            with pytest.raises(TooManyRequests):
                await once(gate, sequences=10)

    asyncio.run(ask())


def test_one_caller_has_at_most_so_many_requests_in_progress() -> None:
    async def ask() -> None:
        gate = admission(running=100, max_concurrent_requests=2)
        async with gate.enter("a"), gate.enter("a"):
            with pytest.raises(TooManyRequests, match="2 of your requests"):
                await once(gate, "a")
            await once(gate, "b")
        await once(gate, "a")

    asyncio.run(ask())


def test_what_is_remembered_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are cheap to make up. Those in progress or in debt stay; those that a new start
    would not favour go.
    """
    monkeypatch.setattr("puna.api.limits._REMEMBERED", 5)

    async def ask() -> None:
        clock = Clock()
        gate = admission(clock, burst=2, requests_per_minute=60)
        for number in range(3):
            await once(gate, f"old {number}")
        clock.now += 10
        async with gate.enter("inside"):
            clock.now += 10
            await once(gate, "debtor")
            await once(gate, "new")
            assert set(gate._callers) == {"inside", "debtor", "new"}

    asyncio.run(ask())


def test_a_limit_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean body_bytes"):
        validate(HttpLimits, {"body_byte": 5}, "--limit")
    with pytest.raises(ConfigError, match="queue = -1"):
        validate(HttpLimits, {"queue": -1}, "--limit")
