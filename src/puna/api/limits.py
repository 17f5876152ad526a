"""Limits of requests, and admission control: rates, concurrency and the queue.

The other limits are kept where they can be: time in streaming.py and server/middleware/timeout.py,
fields in protocol.py. Not here: limits of connections and bodies (server/http_limits.py).
"""

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import Field

from puna.config import Config
from puna.errors import PunaError

_REMEMBERED = 10_000


class Limits(Config):
    """Upper bounds for one request, for one caller, and for all of them together."""

    request_seconds: float = Field(
        default=600,
        gt=0,
        description="from a request's headers to the end of its answer, a stalled reader's too",
    )
    requests_per_minute: float = Field(
        default=6000,
        ge=0,
        description=(
            "of one caller (an API key, or an address), on average; more is a 429; 0: any number"
        ),
    )
    burst: int = Field(
        default=300, gt=0, description="requests of one caller at once, after a pause"
    )
    max_concurrent_requests: int = Field(
        default=256, gt=0, description="requests of one caller in progress; more is a 429"
    )
    queue: int = Field(
        default=256, ge=0, description="sequences that wait while others run; more is a 429"
    )
    prompt_tokens: int = Field(
        default=131072, gt=0, description="of one prompt, if the model's context is not shorter"
    )
    output_tokens: int = Field(
        default=131072, gt=0, description="of one answer; who asks for more gets as many"
    )
    prompts: int = Field(
        default=256, gt=0, description="texts in one request of completions or embeddings"
    )
    n: int = Field(default=128, gt=0, description="sequences of one prompt")
    stops: int = Field(default=16, gt=0, description="stop texts, or ids")
    stop_characters: int = Field(default=256, gt=0, description="of one stop text")
    logit_bias: int = Field(default=1024, gt=0, description="entries of logit_bias")
    logprobs: int = Field(default=20, ge=0, description="alternatives to each token")
    tools: int = Field(default=128, gt=0, description="functions that a model is told of")
    schema_characters: int = Field(
        default=65536, gt=0, description="of a JSON schema, a regular expression or a grammar"
    )


class TooManyRequests(PunaError):  # noqa: N818  (HTTP's own name for it)
    """No capacity for this request now. retry_after: whole seconds after which to ask again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class _Caller:
    """State of a caller: requests in progress, and a token bucket."""

    tokens: float
    filled: float
    requests: int = 0


class Admission:
    """Admission control. running: sequences that the engines compute at once; `limits.queue` more
    may wait.
    """

    def __init__(
        self, limits: Limits, running: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._running, self._clock = limits, running, clock
        self._callers: dict[str, _Caller] = {}
        self._sequences = 0

    @asynccontextmanager
    async def enter(self, key: str, sequences: int = 1) -> AsyncIterator[None]:
        """Count a request of the caller `key` as in progress while the block runs; sequences:
        prompts times n.

        Raises TooManyRequests. A request with more sequences than may run and wait enters alone.
        """
        caller = self._caller(key)
        self._check(caller, sequences)
        if self._limits.requests_per_minute:
            caller.tokens -= 1
        caller.requests += 1
        self._sequences += sequences
        try:
            yield
        finally:
            caller.requests -= 1
            self._sequences -= sequences

    def _caller(self, key: str) -> _Caller:
        limits, now = self._limits, self._clock()
        caller = self._callers.get(key)
        if caller is None:
            if len(self._callers) >= _REMEMBERED:
                self._forget_idle(now)
            caller = self._callers[key] = _Caller(limits.burst, now)
        caller.tokens = self._refilled(caller, now)
        caller.filled = now
        return caller

    def _refilled(self, caller: _Caller, now: float) -> float:
        return min(
            self._limits.burst,
            caller.tokens + (now - caller.filled) * self._limits.requests_per_minute / 60,
        )

    def _forget_idle(self, now: float) -> None:
        """Drop callers whose state is that of a new one."""
        keep = {
            key: one
            for key, one in self._callers.items()
            if one.requests or self._refilled(one, now) < self._limits.burst
        }
        self._callers = keep

    def _check(self, caller: _Caller, sequences: int) -> None:
        limits = self._limits
        if caller.tokens < 1 and limits.requests_per_minute:
            wait = (1 - caller.tokens) * 60 / limits.requests_per_minute
            raise TooManyRequests(
                f"more than {limits.requests_per_minute:g} requests a minute; ask again later",
                math.ceil(wait),
            )
        if caller.requests >= limits.max_concurrent_requests:
            raise TooManyRequests(
                f"{caller.requests} of your requests are in progress, as many as may be; wait for"
                " one to end",
                1,
            )
        if self._sequences and self._sequences + sequences > self._running + limits.queue:
            raise TooManyRequests(
                f"{self._sequences} sequences run or wait already, and the queue is full; ask"
                " again later",
                1,
            )
