"""Two one-sided tests against statsmodels, a published example, and rates over made-up runs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import assert_rate, by_seed
from said import said
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from puna.errors import ConfigError
from puna.statistics.equivalence import analyse_equivalence, equivalence_test


def sample(mean: float, spread: float, n: int) -> np.ndarray:
    """A sample of exactly this mean and standard deviation."""
    raw = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return mean + spread * (raw - raw.mean()) / raw.std(ddof=1)


@given(st.integers(0, 1000), st.floats(0.1, 3))
def test_it_is_statsmodels_paired_test(seed: int, margin: float) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, 6))
    test = equivalence_test(first - second, margin, 0.05)
    p, lower, upper = ttost_paired(first, second, -margin, margin)
    assert test.p_value == pytest.approx(p) == pytest.approx(max(lower[1], upper[1]))
    assert test.mean_difference == pytest.approx((first - second).mean())


def test_the_example_of_a_published_package() -> None:
    """The example of TOSTpaired in Lakens' R package TOSTER: n = 65, means 5.83 and 5.75, standard
    deviations 1.17 and 1.29, r = 0.75, bounds of 0.4 standard deviations of the difference; by hand
    t = (0.08 - 0.4 x 0.877) / 0.1088 = -2.49.
    """
    spread = math.sqrt(1.17**2 + 1.29**2 - 2 * 0.75 * 1.17 * 1.29)
    test = equivalence_test(sample(0.08, spread, 65), 0.4 * spread, 0.05)
    assert test.p_value == pytest.approx(stats.t.sf(2.49, 64), rel=5e-3)
    assert test.confidence_interval == pytest.approx((-0.102, 0.262), abs=0.0005)


@given(st.integers(0, 1000), st.floats(0.05, 3), st.sampled_from([0.01, 0.05, 0.2]))
def test_equivalent_means_that_the_interval_lies_inside_the_margin(
    seed: int, margin: float, alpha: float
) -> None:
    test = equivalence_test(np.random.default_rng(seed).normal(size=5), margin, alpha)
    low, high = test.confidence_interval
    assert (test.p_value < alpha) == (-margin < low and high < margin)


def test_a_difference_on_the_margin_is_called_equivalent_at_the_rate_alpha() -> None:
    """With a margin of many standard errors one of the two tests is never in doubt."""
    rng = np.random.default_rng(3)
    hits = sum(
        equivalence_test(10 + rng.normal(size=5), 10.0, 0.05).p_value < 0.05 for _ in range(2000)
    )
    assert_rate(hits, 2000, 0.05)


def test_equal_arms_with_enough_seeds_are_shown_to_be_equal_and_with_few_are_not() -> None:
    rng = np.random.default_rng(4)
    for seeds, expected in ((3, 0.2), (30, 0.9)):
        share = np.mean(
            [equivalence_test(rng.normal(size=seeds), 0.7, 0.05).p_value < 0.05 for _ in range(300)]
        )
        assert (share > expected) == (seeds == 30)


def test_holm_is_over_the_arms_unless_it_is_not_asked_for() -> None:
    table = np.random.default_rng(5).normal(size=(4, 6))
    adjusted, plain = (
        analyse_equivalence(by_seed(table), "a", 1.5, adjust=adjust) for adjust in (True, False)
    )
    p = [one.test.p_value for one in plain if one.test]
    assert [one.adjusted_p_value for one in plain] == p
    least = int(np.argmin(p))
    assert adjusted[least].adjusted_p_value == pytest.approx(min(1, 3 * p[least]))
    assert [one.test for one in adjusted] == [one.test for one in plain]


def test_a_diverged_arm_is_not_equivalent_and_stays_in_the_family() -> None:
    table = np.random.default_rng(6).normal(size=(3, 6))
    table[1, 2] = math.nan
    diverged, sound = analyse_equivalence(by_seed(table), "a", 1.5)
    assert (diverged.equivalent, diverged.test, diverged.adjusted_p_value) == (False, None, None)
    assert sound.test is not None
    assert sound.adjusted_p_value == pytest.approx(min(1, 2 * sound.test.p_value))


@pytest.mark.parametrize(
    ("by", "equivalent"), [(0.0, True), (0.5, True), (1.0, False), (-2, False)]
)
def test_differences_without_a_spread_are_inside_the_margin_or_not(
    by: float, equivalent: bool
) -> None:
    table = np.array([[1.0, 1.5, 2.0], [1.0 + by, 1.5 + by, 2.0 + by]])
    (result,) = analyse_equivalence(by_seed(table), "a", 1.0)
    assert result.equivalent is equivalent
    assert result.test is not None
    assert result.test.confidence_interval == (by, by)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_that_is_no_size_is_rejected(margin: float) -> None:
    with pytest.raises(ConfigError, match=said(f"{margin} ... more than 0 ... unit of the metric")):
        analyse_equivalence(by_seed([[1, 2], [1, 3]]), "a", margin)


@pytest.mark.parametrize("alpha", [0.0, 0.5, math.nan])
def test_an_alpha_of_half_or_more_is_rejected(alpha: float) -> None:
    with pytest.raises(ConfigError, match=said(f"{alpha} ... between 0 and 0.5")):
        analyse_equivalence(by_seed([[1, 2], [1, 3]]), "a", 1.0, alpha)
