"""Prometheus metrics of the server, in a registry of their own.

Not here: the events themselves. The client of the engine reports what the model does, the
application the results of requests.

Cost, measured on one core: an observation takes about 2 microseconds; a step of the engine makes
two, and one for each sequence.
"""

from collections.abc import Mapping
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from puna.inference.engine_stats import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

_COUNTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prompt_tokens": ("puna_prompt_tokens", "Tokens of prompts that were begun"),
        "cached_tokens": ("puna_cached_prompt_tokens", "Of them, those in the prefix cache"),
        "generated_tokens": ("puna_generated_tokens", "New tokens"),
        "preemptions": (
            "puna_preemptions",
            "Sequences that gave up their memory for older ones",
        ),
        "cancelled": ("puna_cancellations", "Sequences that left early"),
        "proposed": ("puna_speculated_tokens_proposed", "Draft tokens"),
        "accepted": ("puna_speculated_tokens_accepted", "Of them, those accepted"),
    }
)
_LEVELS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "waiting": ("puna_sequences_waiting", "Sequences that wait for memory or a slot"),
        "running": ("puna_sequences_running", "Sequences that hold memory"),
        "blocks": ("puna_cache_blocks", "Blocks of the key/value cache"),
        "used_blocks": (
            "puna_cache_blocks_used",
            "Of them, those in use; the others are free or evictable",
        ),
    }
)


class Metrics:
    """Everything at /metrics. Each model's figures carry its name; counts only grow, as Prometheus
    wants them.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        model = ("model",)
        self._requests = Counter(
            "puna_requests", "Requests answered", ("endpoint", "status"), registry=registry
        )
        self._first = Histogram(
            "puna_time_to_first_token_seconds",
            "From asking the engine to the first token",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._gaps = Histogram(
            "puna_time_per_output_token_seconds",
            "Between the tokens of a sequence",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._steps = Histogram(
            "puna_step_seconds", "Steps of the engine", model, buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "puna_step_tokens",
            "Tokens computed in a step: the batch size",
            model,
            buckets=_TOKENS,
            registry=registry,
        )
        self._late_steps = Counter(
            "puna_cancellation_late_steps",
            "Steps that began between a caller's leaving and its work's end",
            model,
            registry=registry,
        )
        self._counts = {
            key: Counter(name, text, model, registry=registry)
            for key, (name, text) in _COUNTS.items()
        }
        self._levels = {
            key: Gauge(name, text, model, registry=registry)
            for key, (name, text) in _LEVELS.items()
        }
        self._before: dict[str, EngineStats] = {}

    def request_finished(self, endpoint: str, status: int) -> None:
        """Count an answer. endpoint: the route's path, never the caller's, which may be any."""
        self._requests.labels(endpoint, str(status)).inc()

    def first_token(self, model: str, seconds: float) -> None:
        """Record the time from the request of a sequence to its first token."""
        self._first.labels(model).observe(seconds)

    def token_gap(self, model: str, seconds: float, tokens: int) -> None:
        """Record `tokens` of a sequence that came together, `seconds` after those before them."""
        self._gaps.labels(model).observe(seconds / tokens)

    def stepped(self, model: str, seconds: float, tokens: int) -> None:
        """Record one step and the number of tokens that it computed."""
        self._steps.labels(model).observe(seconds)
        self._batches.labels(model).observe(tokens)

    def cancelled(self, model: str, late_steps: int) -> None:
        """Record a request that left early; `late_steps` of its model began after that."""
        self._late_steps.labels(model).inc(late_steps)

    def record_stats(self, model: str, now: EngineStats) -> None:
        """Record the state of an engine; its counts must be those of one engine, growing."""
        before = self._before.get(model, EngineStats())
        for key, counter in self._counts.items():
            counter.labels(model).inc(getattr(now, key) - getattr(before, key))
        for key, gauge in self._levels.items():
            gauge.labels(model).set(getattr(now, key))
        self._before[model] = now

    def render(self) -> bytes:
        """The page at /metrics, in Prometheus's text format (CONTENT_TYPE)."""
        return generate_latest(self._registry)
