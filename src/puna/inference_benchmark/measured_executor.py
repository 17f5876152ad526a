"""The works, done by an executor: prompts, single tokens, several streams, drafts.

No sampling but where drafts are verified, as the peers' benchmarks have it: ids are drawn before.
"""

import random
import time
from collections.abc import Sequence

from puna.inference.engine import Engine
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import Executor, ScheduledChunk
from puna.inference.request import GenerationOptions, Request
from puna.inference_benchmark.workload import Workload

CHUNK = 512
"""Ids of a step that fills the cache, and of a measured prompt."""

MISLEADING_IDS = 12
"""Ids that a text without meaning is made of: what stood together before stands together often, and
what followed says nothing about what follows.
"""


def blocks_for(works: Sequence[Workload], block_size: int) -> int:
    """Blocks of a cache that holds each of these works."""
    return max(work.streams * -(-work.positions // block_size) for work in works)


class MeasuredExecutor:
    """An executor, and what of its cache is filled.

    Ids of a work overwrite those of another one: time does not depend on what they are, so a long
    context is computed once.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        rng = random.Random(0)
        self._ids = rng.choices(range(executor.vocab_size), k=executor.context_length)
        self._filled = 0  # positions of a single stream

    def seconds(self, work: Workload, *, speculate: bool = False) -> float:
        """Seconds that a work takes. speculate: with drafts, for a lookup."""
        match work.kind:
            case "lookup":
                return self._generation(work, speculate=speculate)
            case "decode":
                return self._decode(work)
            case _:
                begin = time.perf_counter()
                self._compute(0, work.tokens, [self._blocks(work, 0)])
                return time.perf_counter() - begin

    def _decode(self, work: Workload) -> float:
        streams = [self._blocks(work, stream) for stream in range(work.streams)]
        if work.streams > 1 or self._filled < work.context:
            for start in range(0, work.context, CHUNK):
                self._compute(start, min(CHUNK, work.context - start), streams)
            self._filled = max(self._filled, work.context)
        begin = time.perf_counter()
        for position in range(work.context, work.positions):
            self._compute(position, 1, streams)
        return time.perf_counter() - begin

    def _blocks(self, work: Workload, stream: int) -> range:
        each = -(-work.positions // self._executor.block_size)
        return range(stream * each, (stream + 1) * each)

    def _compute(self, start: int, count: int, streams: Sequence[range]) -> None:
        ids = self._ids[start : start + count]
        self._executor.run([ScheduledChunk(ids, start, list(blocks), 1) for blocks in streams])

    def _generation(self, work: Workload, *, speculate: bool) -> float:
        """Time after the first token. A bias decides the text of any model: one id for ever, which
        a draft always gets right, or a few that are equally likely.
        """
        if work.repeats:
            prompt, bias, temperature = [20] * work.context, {20: 100.0}, 0.0
        else:
            prompt = random.Random(0).choices(range(MISLEADING_IDS), k=work.context)
            bias = dict.fromkeys(range(MISLEADING_IDS), 100.0)
            temperature = 5.0  # flattens what a model says of these ids, and lets no other in
        options = GenerationOptions(
            max_tokens=work.tokens,
            ignore_end=True,
            speculate=speculate,
            logit_bias=bias,
            temperature=temperature,
            seed=1,
        )
        engine = Engine(self._executor, EngineConfig(prefix_caching=False))
        engine.add(Request("measured", tuple(prompt), options))
        engine.step()
        begin = time.perf_counter()
        while engine.busy:
            engine.step()
        return time.perf_counter() - begin
