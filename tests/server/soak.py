"""Many clients at once against a server, for as long as one likes, and what the server's processes
hold before and after.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raw_http import ask
from served import Held, ServerProcess
from soak_clients import CONTEXT, TEXT, Client, Known, Tally

CLIENTS = 24
KNOWN = 40
SURE = 1e-3
"""The least distance between the log-probabilities of the two likeliest tokens in a known answer.
Other sequences in the batch changed them by 0.000015 at most in 1000 tokens.
"""
PAUSE_SECONDS = 0.02
SETTLED_SECONDS = 10.0


@dataclass(frozen=True)
class State:
    """Both processes, with nothing to do."""

    api_server: Held
    engine: Held


@dataclass(frozen=True)
class Report:
    """What happened between `before` and `after`. counted: how much the server's metrics grew."""

    seconds: float
    tally: Tally
    before: State
    after: State
    counted: Mapping[str, float]
    memory: Sequence[tuple[int, int]]
    """Of API server and engine process, in bytes, at even times on the way."""

    def grown(self, name: str) -> float:
        """By how much all metrics of this name have grown together."""
        return sum(value for key, value in self.counted.items() if key.partition("{")[0] == name)

    @property
    def text(self) -> str:
        """The figures, for people."""
        visits = Counter[str]()
        for (_, outcome), count in self.tally.visits.items():
            visits[outcome] += count
        lines = [
            (
                f"{self.seconds:.0f} seconds, {CLIENTS} clients, {visits.total()} visits:"
                f" {_listed(visits)}"
            ),
            f"requests by status, as the server counts: {_listed(self._statuses())}",
            f"answers that were known and came out equal: {self.tally.right}",
            "tokens generated: {:.0f}; of prompts: {:.0f}, known already: {:.0f}; guessed: {:.0f},"
            " right: {:.0f}".format(*(self.grown(f"puna_{name}_total") for name in _TOKENS)),
            (
                f"preemptions: {self.grown('puna_preemptions_total'):.0f}; continuations cancelled:"
                f" {self.grown('puna_cancellations_total'):.0f}, after"
                f" {self.grown('puna_cancellation_late_steps_total'):.0f} late steps in all"
            ),
            (
                f"slowest answer: {self.tally.slowest_answer:.1f} s; slowest /health:"
                f" {1000 * self.tally.slowest_health:.0f} ms"
            ),
            f"before: {self.before}",
            f"after:  {self.after}",
            "memory on the way, API server and engine process, MB: "
            + ", ".join(f"{server / 1e6:.1f} {engine / 1e6:.1f}" for server, engine in self.memory),
        ]
        width = max(len(action) for action, _ in self.tally.visits)
        by_action: dict[str, Counter[str]] = {}
        for (action, outcome), count in sorted(self.tally.visits.items()):
            by_action.setdefault(action, Counter())[outcome] = count
        return "\n".join(
            [
                *lines,
                *(
                    f"  {action:{width}} {_listed(outcomes)}"
                    for action, outcomes in by_action.items()
                ),
            ]
        )

    def _statuses(self) -> "Counter[str]":
        statuses = Counter[str]()
        for key, value in self.counted.items():
            if key.startswith("puna_requests_total{"):
                statuses[key.split('status="')[1][:3]] += int(value)
        return statuses


_TOKENS = (
    "generated_tokens",
    "prompt_tokens",
    "cached_prompt_tokens",
    "speculated_tokens_proposed",
    "speculated_tokens_accepted",
)


async def soak(server: ServerProcess, seconds: float, warm_up: float, seed: int = 0) -> Report:
    """Let clients come and go. What they do in the first `warm_up` seconds more, the report leaves
    out: caches and pools fill then.
    """
    known = await ask_alone(server.port, random.Random(seed))
    await _visits(server, known, Tally(), warm_up, seed + 1)
    before, counts = await settled(server), await server.metrics()
    tally, memory = Tally(), list[tuple[int, int]]()

    async def watch() -> None:
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            memory.append((Held.by(server.api_server).memory, Held.by(server.engine).memory))

    begun = time.monotonic()
    await asyncio.gather(_visits(server, known, tally, seconds, seed + 2), watch())
    took = time.monotonic() - begun
    after, counted = await settled(server), await server.metrics()
    grown = {name: value - counts.get(name, 0) for name, value in counted.items()}
    return Report(took, tally, before, after, grown, memory)


async def ask_alone(port: int, rng: random.Random) -> list[Known]:
    """Prompts of all lengths, some with a beginning in common, and what the model says to each when
    nothing else is going on.

    Only answers that no rounding can change: other sequences in a batch change the last bits of the
    arithmetic.
    """
    beginning = rng.choices(range(256), k=40)
    known = []
    for _ in range(KNOWN):
        shared = rng.choice((0, 0, 16, 33, 40))
        prompt = beginning[:shared] + rng.choices(
            range(256), k=rng.randint(1, rng.choice((5, 30, CONTEXT - shared - 2)))
        )
        asked = Known(prompt, rng.randint(1, CONTEXT - len(prompt)), "", "")
        answer = await ask(port, "POST", TEXT, asked.request(logprobs=2))
        (choice,) = answer.json["choices"]
        if all(_gap(top) > SURE for top in choice["logprobs"]["top_logprobs"]):
            known.append(Known(prompt, asked.max_tokens, choice["text"], choice["finish_reason"]))
    assert len(known) > KNOWN / 2, "most answers are in doubt"
    return known


def _gap(top: Mapping[str, float]) -> float:
    """Between the two likeliest; two tokens of the same text are one key, and no doubt."""
    best, second, *_ = (*sorted(top.values(), reverse=True), -100.0)
    return best - second


async def settled(server: ServerProcess) -> State:
    """The state of the server once all that came is gone. Fails where something stays."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while left := await _left(server):
        assert time.monotonic() < deadline, f"left behind: {left}"
        await asyncio.sleep(0.1)
    return State(Held.by(server.api_server), Held.by(server.engine))


async def _left(server: ServerProcess) -> dict[str, Any]:
    """What is not as in a server without clients."""
    metrics = await server.metrics()
    levels = ("puna_sequences_running", "puna_sequences_waiting", "puna_cache_blocks_used")
    found: dict[str, Any] = {
        name: value for name, value in metrics.items() if name.startswith(levels) and value
    }
    open_ = Held.by(server.api_server).connections
    return found | ({"connections": open_} if open_ else {})


async def _visits(
    server: ServerProcess, known: Sequence[Known], tally: Tally, seconds: float, seed: int
) -> None:
    """All clients at work until the time is over and each has ended what it began."""
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        client = Client(server.port, rng, known, tally)
        while time.monotonic() < end:
            await client.visit()
            await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS))

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(one(number))


def _listed(counts: "Counter[str]") -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
