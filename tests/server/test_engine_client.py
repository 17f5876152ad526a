"""The engine in a process of its own, asked from here: the real one, with the tiny model."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from background_loop import BackgroundLoop

from puna.engine_process.client import EngineClient, EngineStopped
from puna.engine_process.messages import ModelSpec
from puna.errors import RequestError
from puna.inference.engine_config import EngineConfig
from puna.inference.language_model import LanguageModel
from puna.inference.request import Event, GenerationOptions, Request

Start = Callable[..., EngineClient]

NUMBERS = count()
LONG = {"max_tokens": 80, "ignore_end": True, "speculate": False}
LASTING = {**LONG, "n": 64}
"""640 steps of the engine at least: not done before a busy machine lets a test leave."""


def request(
    client: EngineClient, text: str = "the llama ", embed: bool = False, **options: Any
) -> Request:
    tokenizer = client.models["tiny"].text.tokenizer
    prompt = [tokenizer.bos_id or 0, *tokenizer.encode(text)]
    return Request(
        f"request {next(NUMBERS)}",
        tuple(prompt),
        GenerationOptions(**options),
        frozenset([tokenizer.eos_id]),
        embed,
    )


async def all_of(client: EngineClient, asked: Request, model: str = "tiny") -> list[Event]:
    return [event async for event in client.generate(model, asked)]


def ids_of(events: Sequence[Event], index: int = 0) -> list[int]:
    return [token for event in events if event.index == index for token in event.ids]


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        await asyncio.sleep(0.01)


def figure(client: EngineClient, line: str) -> float:
    """One number of the metrics page."""
    found = [
        text.rpartition(" ")[2]
        for text in client.metrics.render().decode().splitlines()
        if text.startswith(line)
    ]
    return float(found[0]) if found else 0.0


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_text_is_that_of_the_model_itself(
    loop: BackgroundLoop, client: EngineClient, tiny_llama: LanguageModel
) -> None:
    options = {"max_tokens": 30, "seed": 5, "temperature": 0.9, "n": 3}
    events = loop.run(all_of(client, request(client, **options)))
    expected = tiny_llama.complete("the llama ", **options)
    assert [ids_of(events, index) for index in range(3)] == [
        completion.ids for completion in expected
    ]
    assert [event.finish for event in events if event.finish] != []


def test_what_a_model_says_of_itself(client: EngineClient, tiny_llama: LanguageModel) -> None:
    served = client.models["tiny"]
    loaded = served.loaded
    assert (loaded.name, loaded.context_length, loaded.adapters) == ("tiny", 96, ())
    assert served.text.tokenizer.hash == tiny_llama.tokenizer.hash
    assert abs(served.text.created - time.time()) < 10_000
    assert loaded.cache_tokens == 8 * 96
    assert client.max_running == 8
    assert client.health().ok


def test_many_at_once_get_what_each_would_get_alone(
    loop: BackgroundLoop, client: EngineClient
) -> None:
    seeds = range(20, 32)  # more than run at once

    async def together() -> list[list[Event]]:
        return await asyncio.gather(
            *(all_of(client, request(client, max_tokens=20, seed=seed)) for seed in seeds)
        )

    alone = [
        ids_of(loop.run(all_of(client, request(client, max_tokens=20, seed=seed))))
        for seed in seeds
    ]
    assert [ids_of(events) for events in loop.run(together())] == alone


def test_probabilities_and_embeddings_cross(loop: BackgroundLoop, client: EngineClient) -> None:
    asked = request(client, max_tokens=3, logprobs=2, prompt_logprobs=1, seed=1, ignore_end=True)
    events = loop.run(all_of(client, asked))
    scores = [score for event in events for score in event.logprobs]
    assert [score.id for score in scores] == ids_of(events)
    assert all(len(score.top) == 2 and score.logprob < 0 for score in scores)
    assert len(events[0].prompt_logprobs) == len(asked.prompt) - 1
    (only,) = loop.run(all_of(client, request(client, embed=True)))
    assert len(only.embedding) == 32


def test_what_can_never_be_served_is_a_request_error(
    loop: BackgroundLoop, client: EngineClient
) -> None:
    with pytest.raises(RequestError, match="context of 96"):
        loop.run(all_of(client, request(client, "東京" * 90)))
    with pytest.raises(RequestError, match="no adapter 'gone'"):
        loop.run(all_of(client, request(client, adapter="gone")))
    assert loop.run(all_of(client, request(client, max_tokens=2, seed=1)))


def test_leaving_early_ends_the_work(loop: BackgroundLoop, client: EngineClient) -> None:
    """Whether the iterator is closed or its task cancelled; and at most one step begins before the
    engine knows.
    """

    async def leave() -> None:
        before = figure(client, "puna_cancellations_total")
        async with aclosing(client.generate("tiny", request(client, **LASTING))) as events:
            async for _ in events:
                break
        await until(lambda: figure(client, "puna_cancellations_total") > before)
        before = figure(client, "puna_cancellations_total")
        asked = request(client, **LASTING)
        task = asyncio.create_task(all_of(client, asked))
        await until(lambda: asked.id in client._requests)
        task.cancel()
        await until(lambda: figure(client, "puna_cancellations_total") > before)
        await until(lambda: figure(client, "puna_sequences_running") == 0)
        assert not client._requests

    late = figure(client, "puna_cancellation_late_steps_total")
    loop.run(leave())
    assert figure(client, "puna_cancellation_late_steps_total") - late <= 2


def test_one_sequence_can_leave_alone(loop: BackgroundLoop, client: EngineClient) -> None:
    async def leave() -> list[Event]:
        asked = request(client, n=3, seed=3, **LONG)
        events = []
        async for event in client.generate("tiny", asked):
            events.append(event)
            if event.index == 1:
                client.cancel(asked.id, 1)
        return events

    events = loop.run(leave())
    assert len([event for event in events if event.index == 1]) == 1
    assert [len(ids_of(events, index)) for index in (0, 2)] == [80, 80]


def test_all_sequences_can_leave_one_by_one(loop: BackgroundLoop, client: EngineClient) -> None:
    async def leave() -> list[Event]:
        asked = request(client, n=2, seed=3, **LONG)
        events = []
        async for event in client.generate("tiny", asked):
            events.append(event)
            client.cancel(asked.id, event.index)
        return events

    assert len(loop.run(leave())) == 2


def test_another_task_can_end_a_request_that_is_waited_for(
    loop: BackgroundLoop, client: EngineClient
) -> None:
    async def end() -> None:
        asked = request(client, **LASTING)
        reading = asyncio.create_task(all_of(client, asked))
        await until(lambda: asked.id in client._requests)
        client.cancel(asked.id)
        await asyncio.wait_for(reading, 20)
        client.cancel(asked.id)  # nobody's any more

    loop.run(end())


def test_a_reader_that_is_slow_keeps_nobody_waiting(
    loop: BackgroundLoop, client: EngineClient
) -> None:
    async def read() -> None:
        async with aclosing(client.generate("tiny", request(client, seed=1, **LONG))) as slow:
            first = [await anext(slow)]
            assert len(ids_of(await all_of(client, request(client, seed=2, **LONG)))) == 80
            rest = [event async for event in slow]
            assert len(ids_of(first + rest)) == 80

    loop.run(read())


def test_signals_are_for_the_api_server(loop: BackgroundLoop, client: EngineClient) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        client._process.send_signal(number)
    assert loop.run(all_of(client, request(client, max_tokens=2)))
    assert client.health().ok


def test_a_process_that_stands_still_is_seen_and_can_come_back(
    loop: BackgroundLoop, client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_hang_seconds", 2.5)

    async def stop() -> None:
        client._process.send_signal(signal.SIGSTOP)
        try:
            reading = asyncio.create_task(all_of(client, request(client, max_tokens=5, seed=1)))
            begun = time.monotonic()
            await until(lambda: client.health().status == "stuck")
            assert time.monotonic() - begun < 5
            assert not client.health().ok
            assert "no sign of life" in client.health().detail
        finally:
            client._process.send_signal(signal.SIGCONT)
        await until(lambda: client.health().ok)
        assert await reading

    loop.run(stop())


def test_idle_or_busy_it_gives_signs_of_life(loop: BackgroundLoop, client: EngineClient) -> None:
    """Idle, once a second; so a limit of some seconds is never reached by waiting."""

    async def watch() -> None:
        seen = set()
        deadline = time.monotonic() + 60
        while len(seen) < 3:
            seen.add(client._last_sign)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    loop.run(watch())


def test_two_models_take_turns(loop: BackgroundLoop, start: Start, tiny_spec: ModelSpec) -> None:
    client = start(tiny_spec, ModelSpec("twin", tiny_spec.folder))
    assert list(client.models) == ["tiny", "twin"]

    async def ask() -> tuple[list[Event], list[Event]]:
        order: list[str] = []

        async def read(model: str) -> list[Event]:
            events = []
            async for event in client.generate(model, request(client, seed=4, **LONG)):
                events.append(event)
                order.append(model)
            return events

        both = await asyncio.gather(read("tiny"), read("twin"))
        assert order != sorted(order), "one after the other"
        return both[0], both[1]

    one, other = loop.run(ask())
    assert ids_of(one) == ids_of(other)


def test_the_death_of_the_process_is_told_to_all(loop: BackgroundLoop, start: Start) -> None:
    client = start()

    async def kill() -> None:
        asked = [request(client, **LASTING) for _ in range(3)]
        running = [asyncio.create_task(all_of(client, each)) for each in asked]
        await until(lambda: client._requests.keys() >= {each.id for each in asked})
        client._process.kill()
        for each in running:
            with pytest.raises(EngineStopped, match="killed by SIGKILL"):
                await asyncio.wait_for(each, 20)
        assert (client.health().ok, client.health().status) == (False, "dead")
        assert "SIGKILL" in await client.wait_until_stopped()
        with pytest.raises(EngineStopped, match="SIGKILL"):
            await all_of(client, request(client))

    loop.run(kill())


def test_closing_ends_what_is_in_progress_and_leaves_no_process(
    loop: BackgroundLoop, start: Start
) -> None:
    client = start()

    async def close() -> None:
        reading = asyncio.create_task(all_of(client, request(client, **LONG)))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(EngineStopped, match="closing"):
            await reading
        await client.close()

    loop.run(close())
    assert client._process.returncode == 0


FAULTY = """
import sys, time
from puna.inference.engine import Engine
begin = Engine.__init__
def begin_faulty(self, executor, *rest):
    run = executor.run
    def faulty(pieces):
        if any({fault} in piece.ids for piece in pieces):
            {action}
        return run(pieces)
    executor.run = faulty
    begin(self, executor, *rest)
Engine.__init__ = begin_faulty
from puna.engine_process.process import main
main()
"""


def faulty_process(monkeypatch: pytest.MonkeyPatch, fault: int, action: str) -> None:
    """Have the next process do something else than a step wherever the id `fault` is in it."""
    program = FAULTY.format(fault=fault, action=action)
    monkeypatch.setattr("puna.engine_process.client.COMMAND", (sys.executable, "-c", program))


def test_a_step_that_fails_fails_its_requests_and_not_the_next(
    loop: BackgroundLoop,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The third failure without a step that works between them is one too many: then the process
    ends.
    """
    faulty_process(monkeypatch, 290, "raise ValueError('a fault')")
    client = start()

    def bad() -> Request:
        return Request(f"request {next(NUMBERS)}", (290,), GenerationOptions(n=2))

    async def ask() -> None:
        for _ in range(3):
            events = await all_of(client, bad())
            assert [(event.index, event.finish) for event in events] == [(0, "error"), (1, "error")]
            assert "the server's log" in events[0].message
            assert (
                len(
                    ids_of(
                        await all_of(
                            client, request(client, max_tokens=5, temperature=0.0, ignore_end=True)
                        )
                    )
                )
                == 5
            )
        for _ in range(2):
            await all_of(client, bad())
        with pytest.raises(EngineStopped, match="ValueError: a fault"):
            await all_of(client, bad())
        assert client.health().status == "dead"

    loop.run(ask())
    assert "ValueError: a fault" in capfd.readouterr().err


def test_the_api_server_reports_what_cannot_be_loaded(
    loop: BackgroundLoop,
    tiny_spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(EngineStopped, match=r"is no model folder: it has no config\.json"):
        loop.run(EngineClient.start([tiny_spec, ModelSpec("gone", str(tmp_path))]))
    with pytest.raises(EngineStopped, match="'cuda:99' cannot be used here"):
        loop.run(EngineClient.start([tiny_spec], device="cuda:99"))
    program = (
        "import sys; sys.modules['torch'] = None;"
        " from puna.engine_process.process import main; main()"
    )
    monkeypatch.setattr("puna.engine_process.client.COMMAND", (sys.executable, "-c", program))
    with pytest.raises(EngineStopped, match=r"ModuleNotFoundError: .*torch"):
        loop.run(EngineClient.start([tiny_spec], EngineConfig(isa="torch")))


def test_loading_can_be_given_up(loop: BackgroundLoop, tiny_spec: ModelSpec) -> None:
    async def give_up() -> None:
        client = await EngineClient.launch([tiny_spec])
        assert (client.health().ok, client.health().status) == (False, "loading")
        assert not client.models
        await client.close()
        assert client._process.returncode is not None

    loop.run(give_up())


ORPHAN = """
import asyncio, sys
{setting}
from puna.inference.request import GenerationOptions, Request
from puna.engine_process.client import EngineClient
from puna.engine_process.messages import ModelSpec
async def main():
    client = await EngineClient.start([ModelSpec("tiny", {folder!r})], device="cpu", threads=1)
    print(client._process.pid, flush=True)
    options = GenerationOptions(max_tokens=60, ignore_end=True)
    async for event in client.generate("tiny", Request("r", (290, 5), options)):
        pass
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.mark.parametrize("hung", [False, True], ids=["idle", "amid a step that never ends"])
def test_an_api_server_that_is_killed_leaves_no_orphan(hung: bool, tiny_spec: ModelSpec) -> None:
    program = FAULTY.format(fault=290, action="time.sleep(1000)")
    setting = (
        f"import puna.engine_process.client as c; c.COMMAND = (sys.executable, '-c', {program!r})"
        if hung
        else ""
    )
    command = [sys.executable, "-c", ORPHAN.format(setting=setting, folder=tiny_spec.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as api_server:
        assert api_server.stdout is not None
        pid = int(api_server.stdout.readline())
        time.sleep(0.3)  # into the step
        assert alive(pid)
        os.kill(api_server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline, "the engine process outlived its API server"
        time.sleep(0.01)


def test_the_api_server_imports_no_torch() -> None:
    program = (
        "import sys, puna.engine_process.client, puna.server.app, puna.server.connection;"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
