"""Proportions are within one sample of exact at every moment, and each window comes once an
epoch.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from said import said

from puna.data.mixture import Mixture, Schedule, epochs
from puna.errors import DataError

LLAMA_WEIGHTS = {
    "CommonCrawl": 67.0,
    "C4": 15.0,
    "GitHub": 4.5,
    "Wikipedia": 4.5,
    "Books": 4.5,
    "ArXiv": 2.5,
    "StackExchange": 2.0,
}
LLAMA_TOKENS = dict(
    zip(LLAMA_WEIGHTS, [853e9, 198e9, 98e9, 25.7e9, 28.3e9, 33.0e9, 27.2e9], strict=True)
)

shares_lists = st.lists(st.integers(1, 60), min_size=1, max_size=9).map(lambda shares: [*shares, 1])
weight_maps = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 15), min_size=1)


def worst_error(sources: np.ndarray, shares: list[int]) -> int:
    """The largest |count * period - step * share| over all prefixes and sources: errors in units of
    1/period samples.
    """
    period = sum(shares)
    steps = np.arange(1, len(sources) + 1)
    return max(
        int(np.abs(np.cumsum(sources == number) * period - steps * share).max())
        for number, share in enumerate(shares)
    )


@given(shares_lists)
def test_every_prefix_is_within_one_sample_of_exact(shares: list[int]) -> None:
    schedule = Schedule(shares)
    sources, _ = schedule.locate(np.arange(2 * schedule.period + 3))
    slack = 2 * len(shares) - 2
    assert worst_error(sources, shares) * slack <= (slack - 1) * schedule.period
    assert np.bincount(sources[: schedule.period]).tolist() == shares


def test_the_largest_deficit_first_would_leave_the_bound() -> None:
    shares = [1, 3, 27, 3, 27]
    counts, order = np.zeros(5, dtype=int), []
    for step in range(1, sum(shares) + 1):
        order.append(int(np.argmax(step * np.array(shares) - sum(shares) * counts)))
        counts[order[-1]] += 1
    assert worst_error(np.array(order), shares) > sum(shares)
    assert worst_error(Schedule(shares).locate(np.arange(sum(shares)))[0], shares) < sum(shares)


@given(shares_lists)
def test_counts_run_through_each_source_without_a_gap(shares: list[int]) -> None:
    schedule = Schedule(shares)
    sources, counts = schedule.locate(np.arange(3 * schedule.period))
    for number in range(len(shares)):
        np.testing.assert_array_equal(counts[sources == number], np.arange(3 * shares[number]))


def test_llamas_mixture_is_exact_at_every_prefix_of_its_period() -> None:
    mixture = Mixture(LLAMA_WEIGHTS, dict.fromkeys(LLAMA_WEIGHTS, 1000), 9, seed=0)
    assert mixture.schedule.period == 200
    assert mixture.schedule.shares.tolist() == [134, 30, 9, 9, 9, 5, 4]
    assert (
        worst_error(mixture.samples(np.arange(1000)).source, mixture.schedule.shares.tolist()) < 200
    )


def test_llamas_epochs() -> None:
    found = epochs(LLAMA_WEIGHTS, LLAMA_TOKENS, 1.4e12)
    assert [f"{found[name]:.2f}" for name in LLAMA_WEIGHTS] == [
        "1.10",
        "1.06",
        "0.64",
        "2.45",
        "2.23",
        "1.06",
        "1.03",
    ]


@given(weight_maps, st.integers(1, 9), st.integers(0, 2**63), st.data())
def test_each_window_comes_once_an_epoch(
    weights: dict[str, int], context: int, seed: int, data: st.DataObject
) -> None:
    windows = {name: data.draw(st.integers(1, 12), label=name) for name in weights}
    tokens = {
        name: count * context + data.draw(st.integers(1, context))
        for name, count in windows.items()
    }
    mixture = Mixture(weights, tokens, context, seed)
    assert mixture.num_windows == windows
    samples = mixture.samples(np.arange(3 * 12 * mixture.schedule.period))
    for number, name in enumerate(mixture.names):
        mine = samples.source == number
        assert (np.diff(samples.epoch[mine]) >= 0).all()
        for epoch in range(3):
            order = samples.window[mine & (samples.epoch == epoch)]
            assert sorted(order.tolist()) == list(range(windows[name]))


@given(weight_maps, st.integers(0, 2**40), st.integers(0, 1000))
def test_a_sample_depends_on_its_index_alone(
    weights: dict[str, int], first: int, seed: int
) -> None:
    mixture = Mixture(weights, dict.fromkeys(weights, 1000), 7, seed)
    together = mixture.samples(np.arange(first, first + 20))
    again = Mixture(weights, dict.fromkeys(weights, 1000), 7, seed)
    for place in (19, 3, 0):
        sample = again.sample(first + place)
        assert sample.source == mixture.names[together.source[place]]
        assert (sample.epoch, sample.window) == (together.epoch[place], together.window[place])


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    def order(seed: int, source: int, epoch: int) -> list[int]:
        mixture = Mixture({"a": 1, "b": 1}, {"a": 1001, "b": 1001}, 10, seed)
        samples = mixture.samples(np.arange(400))
        return samples.window[(samples.source == source) & (samples.epoch == epoch)].tolist()

    orders = [
        order(seed, source, epoch) for seed in (0, 1) for source in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(windows) for windows in orders}) == 8
    assert all(sorted(windows) == list(range(100)) for windows in orders)


def test_another_name_for_a_source_changes_nothing() -> None:
    here, there = ({f"{place}/web": 2, f"{place}/code": 1} for place in ("here", "there"))
    samples = [
        Mixture(weights, dict.fromkeys(weights, 999), 10, seed=3).samples(np.arange(300))
        for weights in (here, there)
    ]
    np.testing.assert_array_equal(samples[0].window, samples[1].window)


def test_the_order_is_pinned() -> None:
    """A change of these numbers changes the data of every resumed run."""
    mixture = Mixture({"web": 0.7, "code": 0.3}, {"web": 1001, "code": 501}, 10, seed=1)
    samples = mixture.samples(np.arange(10))
    assert samples.source.tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert samples.window.tolist() == [29, 41, 12, 46, 51, 43, 50, 69, 4, 10]
    assert mixture.sample(10**15) == ("web", 7_000_000_000_000, 33)


def test_weights_count_as_the_decimals_they_print_as() -> None:
    tokens = {"a": 10, "b": 10, "c": 10}
    for weights in (
        {"a": 0.1, "b": 0.2, "c": 0.7},
        {"a": 1, "b": 2, "c": 7},
        {"a": 1e-3, "b": 0.002, "c": 7e-3},
    ):
        assert Mixture(weights, tokens, 4, seed=0).schedule.shares.tolist() == [1, 2, 7]


@pytest.mark.parametrize(
    ("weights", "tokens", "message"),
    [
        ({}, {}, "no sources ... weight"),
        ({"a": 0.0}, {"a": 100}, "a ... 0.0 ... positive"),
        ({"a": -1}, {"a": 100}, "weight ... a ... -1"),
        ({"a": float("nan")}, {"a": 100}, "weight ... a ... nan"),
        ({"a": float("inf")}, {"a": 100}, "weight ... a ... inf"),
        ({"a": 1}, {"b": 100}, "['a'] ... ['b']"),
        ({"a": 1}, {"a": 9}, "a ... 9 tokens ... window of 9 + 1"),
        (
            {"a": 0.1234567, "b": 1},
            {"a": 100, "b": 100},
            "repeat ... 11234567 samples ... fewer digits",
        ),
    ],
)
def test_bad_mixtures_are_rejected(
    weights: dict[str, float], tokens: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=said(message)):
        Mixture(weights, tokens, 9, seed=0)


def test_epochs_of_a_source_without_tokens_is_rejected() -> None:
    with pytest.raises(DataError, match=said("['b'] ... no tokens")):
        epochs({"a": 1, "b": 1}, {"a": 5}, 10)
