"""The page at /metrics, read as Prometheus reads it."""

from prometheus_client.parser import text_string_to_metric_families

from puna.engine_process.metrics import Metrics
from puna.inference.engine_stats import EngineStats


def figures(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """(name, labels' values...) to value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_fresh_page_is_valid_and_empty() -> None:
    assert figures(Metrics()) == {}


def test_registries_are_not_shared() -> None:
    one, other = Metrics(), Metrics()
    one.request_finished("/v1/models", 200)
    assert figures(other) == {}


def test_requests_are_counted_by_endpoint_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 429):
        metrics.request_finished("/v1/completions", status)
    found = figures(metrics)
    assert found["puna_requests_total", "/v1/completions", "200"] == 2
    assert found["puna_requests_total", "/v1/completions", "429"] == 1


def test_counts_of_the_engine_grow_by_what_is_new_and_levels_are_what_they_are() -> None:
    metrics = Metrics()
    metrics.record_stats(
        "tiny",
        EngineStats(running=3, waiting=1, generated_tokens=10, preemptions=1, cached_tokens=4),
    )
    metrics.record_stats(
        "tiny",
        EngineStats(running=2, waiting=0, generated_tokens=25, preemptions=1, cached_tokens=4),
    )
    metrics.record_stats("other", EngineStats(generated_tokens=5))
    found = figures(metrics)
    assert found["puna_generated_tokens_total", "tiny"] == 25
    assert found["puna_generated_tokens_total", "other"] == 5
    assert found["puna_preemptions_total", "tiny"] == 1
    assert found["puna_cached_prompt_tokens_total", "tiny"] == 4
    assert found["puna_sequences_running", "tiny"] == 2
    assert found["puna_sequences_waiting", "tiny"] == 0


def test_times_are_per_token() -> None:
    metrics = Metrics()
    metrics.first_token("tiny", 0.2)
    metrics.token_gap("tiny", 0.09, tokens=3)
    metrics.stepped("tiny", 0.01, tokens=7)
    metrics.cancelled("tiny", late_steps=1)
    found = figures(metrics)
    assert found["puna_time_to_first_token_seconds_sum", "tiny"] == 0.2
    assert abs(found["puna_time_per_output_token_seconds_sum", "tiny"] - 0.03) < 1e-12
    assert found["puna_step_tokens_sum", "tiny"] == 7
    assert found["puna_step_seconds_count", "tiny"] == 1
    assert found["puna_cancellation_late_steps_total", "tiny"] == 1


def test_every_count_of_the_engine_is_shown_or_is_known_to_be_shown_otherwise() -> None:
    """A count that the engine gains must find its way to the page."""
    from dataclasses import fields

    from puna.engine_process.metrics import _COUNTS, _LEVELS

    shown_otherwise = {"steps", "batch_tokens"}  # by the histogram of steps
    assert {field.name for field in fields(EngineStats)} == set(_COUNTS) | set(
        _LEVELS
    ) | shown_otherwise
