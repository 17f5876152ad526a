"""The bootstrap over runs and documents against draws one by one, closed forms, and coverage over
made-up runs.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_runs import ARMS
from numpy.typing import NDArray
from said import said
from scipy import stats

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, Term
from puna.statistics.document_bootstrap import (
    DocumentBootstrap,
    Interval,
    bootstrap_contrast,
    bootstrap_ratio,
)

Array = NDArray[np.float64]
A_B = Contrast.of_arms("a - b", {"a": 1, "b": -1})
BEST = Contrast("a - best of b, c", (Term(1, ("a",)), Term(-1, ("b", "c"), "best")))


def made_up(arms: int, seeds: int, documents: int, seed: int = 0) -> tuple[dict[str, Array], Array]:
    """Bits of unequal documents with effects of the run, of the document and of both, by arm."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(500, 5000, documents).astype(np.float64)
    return {
        arm: sizes
        * (
            2.0
            + 0.02 * rng.normal(size=(seeds, 1))
            + 0.05 * rng.normal(size=documents)
            + 0.01 * rng.normal(size=(seeds, documents))
        )
        for arm in ARMS[:arms]
    }, sizes


def bootstrapped(
    bits: dict[str, Array], sizes: Array, contrast: Contrast = A_B, alpha: float = 0.05
) -> DocumentBootstrap:
    result = bootstrap_contrast(bits, sizes, contrast, alpha)
    assert result is not None
    return result


def width(interval: Interval) -> float:
    return interval[1] - interval[0]


def test_the_estimate_is_the_mean_contrast_of_bits_over_bytes() -> None:
    bits, sizes = made_up(3, 4, 9)
    by_seed = {arm: of_arm.sum(axis=1) / sizes.sum() for arm, of_arm in bits.items()}
    assert bootstrapped(bits, sizes).estimate == pytest.approx((by_seed["a"] - by_seed["b"]).mean())
    best = np.minimum(by_seed["b"], by_seed["c"])
    assert bootstrapped(bits, sizes, BEST).estimate == pytest.approx((by_seed["a"] - best).mean())


@pytest.mark.parametrize("contrast", [A_B, BEST], ids=lambda one: one.name)
@pytest.mark.parametrize("fixed", ["nothing", "runs", "documents"])
def test_the_intervals_are_those_of_draws_one_by_one(contrast: Contrast, fixed: str) -> None:
    """Indices of seeds and documents drawn in a loop by another generator; the ends of the
    intervals agree within the noise of 4,000 draws.
    """
    bits, sizes = made_up(3, 5, 12)
    rng, draws = np.random.default_rng(99), []
    for _ in range(4000):
        seeds = np.arange(5) if fixed == "runs" else rng.integers(0, 5, 5)
        documents = np.arange(12) if fixed == "documents" else rng.integers(0, 12, 12)
        level = {
            arm: of_arm[np.ix_(seeds, documents)].sum(axis=1) / sizes[documents].sum()
            for arm, of_arm in bits.items()
        }
        other = level["b"] if contrast is A_B else np.minimum(level["b"], level["c"])
        draws.append(float((level["a"] - other).mean()))
    expected = np.quantile(draws, [0.1, 0.9])
    result = bootstrapped(bits, sizes, contrast, 0.2)
    found = {
        "nothing": result.runs_and_documents,
        "runs": result.documents,
        "documents": result.runs,
    }[fixed]
    assert found == pytest.approx(tuple(expected), abs=0.12 * (expected[1] - expected[0]))


def test_the_interval_over_documents_has_the_spread_of_a_mean_of_documents() -> None:
    """With documents of one size the draws' standard deviation is that of the documents (divisor n)
    over the root of their number.
    """
    rng = np.random.default_rng(1)
    differences = rng.normal(size=400)
    zero = np.zeros((3, 400))
    result = bootstrapped({"a": zero + 100 * differences, "b": zero}, np.full(400, 100.0))
    assert width(result.documents) == pytest.approx(
        2 * 1.96 * differences.std() / math.sqrt(400), rel=0.05
    )
    assert width(result.runs) == pytest.approx(0, abs=1e-12)
    assert result.runs_and_documents == pytest.approx(result.documents, abs=1e-12)


def test_where_documents_are_alike_runs_dominate() -> None:
    by_seed = np.random.default_rng(2).normal(size=(6, 1))
    bits = {"a": 50 * by_seed * np.ones(20), "b": np.zeros((6, 20))}
    result = bootstrapped(bits, np.full(20, 50.0))
    assert width(result.documents) == pytest.approx(0, abs=1e-12)
    assert result.runs_and_documents == pytest.approx(result.runs, abs=1e-12)
    assert width(result.runs) > 0.5


def test_what_a_document_does_to_all_arms_drops_out() -> None:
    bits, sizes = made_up(2, 4, 10)
    hard = 3.0 * sizes * np.random.default_rng(3).normal(size=10)
    plain = bootstrapped(bits, sizes)
    shifted = bootstrapped({arm: of_arm + hard for arm, of_arm in bits.items()}, sizes)
    assert shifted.runs_and_documents == pytest.approx(plain.runs_and_documents, abs=1e-9)


def test_noise_of_runs_and_documents_together_counts_three_times() -> None:
    """Owen: conservative. With that noise alone the variance is three times the true one, which the
    interval over runs has.
    """
    ratios = []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(30, 30))
        result = bootstrapped({"a": noise, "b": np.zeros((30, 30))}, np.ones(30))
        ratios.append((width(result.runs_and_documents) / width(result.runs)) ** 2)
    assert np.mean(ratios) == pytest.approx(3, rel=0.15)


def test_four_runs_by_percentiles_cover_80_per_cent() -> None:
    """The module's own intervals over runs, of 300 contrasts whose true value is 0."""
    rng, hits = np.random.default_rng(4), 0
    for _ in range(300):
        bits = {"a": rng.normal(size=(4, 1)) * np.ones(2), "b": np.zeros((4, 2))}
        low, high = bootstrapped(bits, np.ones(2)).runs
        hits += low <= 0 <= high
    assert hits == pytest.approx(0.8 * 300, abs=3.3 * math.sqrt(300 * 0.8 * 0.2))


def test_many_runs_and_documents_cover_what_they_say() -> None:
    """Effects of runs, documents and both, contrasts with the true value 0; 95% less what 20 runs
    are too few for. Either source by itself covers far less.
    """
    rng = np.random.default_rng(5)
    hits = dict.fromkeys(("runs_and_documents", "documents", "runs"), 0)
    for _ in range(60):
        noise = rng.normal(size=(20, 1)) + rng.normal(size=30) + rng.normal(size=(20, 30))
        result = bootstrapped({"a": noise, "b": np.zeros((20, 30))}, np.ones(30))
        for name in hits:
            low, high = getattr(result, name)
            hits[name] += low <= 0 <= high
    assert hits["runs_and_documents"] >= stats.binom.ppf(0.001, 60, 0.92)
    assert max(hits["documents"], hits["runs"]) <= stats.binom.ppf(0.999, 60, 0.85)


def test_equal_data_give_equal_digits_in_any_order_of_the_arms() -> None:
    bits, sizes = made_up(3, 4, 9)
    mixed = {arm: bits[arm] for arm in "cab"}
    assert bootstrapped(bits, sizes) == bootstrapped(mixed, sizes)


@settings(max_examples=10)
@given(st.integers(0, 100), st.floats(-5, 5))
def test_a_shift_of_all_arms_changes_nothing(seed: int, shift: float) -> None:
    bits, sizes = made_up(3, 4, 9, seed)
    plain = bootstrapped(bits, sizes, BEST)
    shifted = bootstrapped({arm: one + shift * sizes for arm, one in bits.items()}, sizes, BEST)
    for name in ("runs_and_documents", "documents", "runs"):
        assert getattr(shifted, name) == pytest.approx(getattr(plain, name), abs=1e-9)


# runs that diverged, and bad input


def test_a_diverged_run_has_no_mean_and_is_never_the_best() -> None:
    bits, sizes = made_up(3, 4, 9)
    bits["b"][1] = np.nan
    assert bootstrap_contrast(bits, sizes, A_B, 0.05) is None
    without = {**bits, "b": np.where(np.isnan(bits["b"]), bits["c"], bits["b"])}
    assert bootstrapped(bits, sizes, BEST) == bootstrapped(without, sizes, BEST)


def test_arrays_that_do_not_fit_are_rejected() -> None:
    bits, sizes = made_up(2, 4, 9)
    with pytest.raises(ConfigError, match=said("(4, 8) ... same seeds and documents")):
        bootstrap_contrast({**bits, "b": bits["b"][:, :8]}, sizes, A_B, 0.05)
    with pytest.raises(ConfigError, match=said("(4, 9) ... 8 sizes ... a size for every")):
        bootstrap_contrast(bits, sizes[:8], A_B, 0.05)
    with pytest.raises(ConfigError, match=said("(1, 9) ... at least 2 seeds")):
        bootstrap_contrast({arm: one[:1] for arm, one in bits.items()}, sizes, A_B, 0.05)
    with pytest.raises(ConfigError, match=said("no bytes ... leave it out")):
        bootstrap_contrast(bits, np.zeros(9), A_B, 0.05)
    with pytest.raises(ConfigError, match=said("names no arm: c ... a, b")):
        bootstrap_contrast(bits, sizes, BEST, 0.05)


def test_a_mean_has_its_own_standard_error() -> None:
    """s / sqrt(n), and an interval of about 1.96 of it on either side; the same at every call."""
    values = np.random.default_rng(3).normal(2.0, 0.5, 400)
    found = bootstrap_ratio(values, np.ones(400))
    stderr = values.std() / np.sqrt(400)
    assert found.estimate == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(stderr, rel=0.06)
    assert found.interval[0] == pytest.approx(values.mean() - 1.96 * stderr, abs=0.3 * stderr)
    assert found.interval[1] == pytest.approx(values.mean() + 1.96 * stderr, abs=0.3 * stderr)
    assert bootstrap_ratio(values, np.ones(400)) == found


def test_a_ratio_weighs_documents_by_their_size() -> None:
    """Documents of one density and any size have no spread; drawn in parts of any number."""
    sizes = np.arange(1.0, 1201.0)
    found = bootstrap_ratio(3 * sizes, sizes)
    assert found.estimate == pytest.approx(3.0)
    assert found.stderr == pytest.approx(0.0, abs=1e-12)
    uneven = bootstrap_ratio(np.array([1.0, 100.0]), np.array([1.0, 10.0]))
    assert uneven.estimate == pytest.approx(101 / 11)
    assert uneven.interval == pytest.approx((1.0, 10.0))


@pytest.mark.parametrize(("values", "weights"), [([1.0], [1.0]), ([1, 2], [1, 0]), ([1, 2], [1])])
def test_a_ratio_that_has_no_bootstrap(values: list[float], weights: list[float]) -> None:
    with pytest.raises(ConfigError, match=said("values and ... at least 2 ... positive")):
        bootstrap_ratio(np.array(values, dtype=float), np.array(weights, dtype=float))
