"""Shares and tests of yes and no against published tables, closed forms and made-up runs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import assert_rate
from said import said
from scipy import optimize, special, stats

from puna.errors import ConfigError
from puna.statistics.proportions import (
    fisher_test,
    interaction_test,
    share_of,
    wilson_share,
)


def outcomes(**counts: tuple[int, int]) -> dict[str, dict[int, bool]]:
    """Of every arm, count of total runs are yes."""
    return {
        arm: {seed: seed < count for seed in range(total)} for arm, (count, total) in counts.items()
    }


SQUARE = {
    "a": {"norm": "pre", "start": "cold"},
    "b": {"norm": "pre", "start": "warm"},
    "c": {"norm": "post", "start": "cold"},
    "d": {"norm": "post", "start": "warm"},
}


# shares


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_where_the_score_test_is_at_its_critical_value(
    of: tuple[int, int],
) -> None:
    """(p - share)^2 = z^2 p (1 - p) / n at both ends."""
    count, total = of
    z = stats.norm.ppf(0.975)
    for bound in wilson_share(count, total).confidence_interval:
        distance = (bound - count / total) ** 2
        assert distance == pytest.approx(z**2 * bound * (1 - bound) / total, abs=1e-9)


def test_none_of_16_may_still_be_a_fifth() -> None:
    assert wilson_share(0, 16).confidence_interval == pytest.approx((0, 0.19), abs=0.005)


def test_the_share_of_a_group_pools_its_arms() -> None:
    share = share_of(outcomes(a=(6, 8), b=(5, 8), c=(0, 16)), ["a", "b"], 0.1)
    assert (share.count, share.total) == (11, 16)
    assert share == wilson_share(11, 16, 0.1)


# Fisher


@pytest.mark.parametrize(("right", "p"), [(4, 2 / 70), (3, 34 / 70), (2, 1.0)])
def test_fishers_tea(right: int, p: float) -> None:
    """The lady tasting tea, 8 cups of which 4 had the milk first: she is right about all 4 by
    chance in 1 of 70 choices (Fisher 1935), so the two-sided p-value is twice that.
    """
    test = fisher_test(outcomes(milk=(right, 4), tea=(4 - right, 4)), ["milk"], ["tea"])
    assert test.p_value == pytest.approx(p)


def test_stuck_runs_of_two_placements() -> None:
    """11 of 16 against 0 of 16, by the hypergeometric distribution."""
    test = fisher_test(outcomes(post=(6, 8), post2=(5, 8), pre=(0, 16)), ["post", "post2"], ["pre"])
    assert test.p_value == pytest.approx(2 * math.comb(16, 11) / math.comb(32, 11))
    assert (test.first.count, test.second.count) == (11, 0)


def test_numbers_in_the_docstring_of_fishers_test() -> None:
    for total, p in ((4, 0.029), (3, 0.1)):
        test = fisher_test(outcomes(a=(total, total), b=(0, total)), ["a"], ["b"])
        assert test.p_value == pytest.approx(p, abs=0.0005)


def test_two_groups_that_fail_alike_are_called_different_in_at_most_alpha_of_the_studies() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for first, second in rng.binomial(12, 0.4, size=(500, 2)).tolist():
        hits += fisher_test(outcomes(a=(first, 12), b=(second, 12)), ["a"], ["b"]).p_value < 0.05
    assert 0 < hits <= stats.binom.ppf(0.999, 500, 0.05)


# the interaction


def test_the_deviance_difference_is_that_of_an_independent_fit() -> None:
    """Maximum likelihood by scipy's minimiser; with the interaction the fit is the counts."""
    counts = np.array([3, 5, 9, 4])
    total = 12

    def minus_log_likelihood(coefficients: np.ndarray) -> float:
        logits = coefficients[0] + coefficients[1] * np.array([0, 0, 1, 1])
        logits = logits + coefficients[2] * np.array([0, 1, 0, 1])
        log_odds = special.log_expit(logits), special.log_expit(-logits)
        return -float(counts @ log_odds[0] + (total - counts) @ log_odds[1])

    additive = optimize.minimize(minus_log_likelihood, np.zeros(3), tol=1e-10).fun
    share = counts / total
    full = -float(counts @ np.log(share) + (total - counts) @ np.log(1 - share))
    cells = {arm: (int(count), total) for arm, count in zip("abcd", counts, strict=True)}
    test = interaction_test(outcomes(**cells), SQUARE, "norm", "start")
    assert test.deviance_difference == pytest.approx(2 * (additive - full), rel=1e-6)
    assert test.degrees_of_freedom == 1
    assert test.p_value == pytest.approx(stats.chi2.sf(2 * (additive - full), 1), rel=1e-5)


def test_complete_separation_leaves_the_deviance_difference_finite() -> None:
    """Failures where exactly one of two things is done: without the interaction every cell is at
    one half, so the difference is 2 x 32 log 2.
    """
    test = interaction_test(
        outcomes(a=(0, 8), b=(8, 8), c=(8, 8), d=(0, 8)), SQUARE, "norm", "start"
    )
    assert test.deviance_difference == pytest.approx(64 * math.log(2))
    assert test.p_value < 1e-9


@pytest.mark.parametrize(
    "counts",
    [
        (0, 8, 0, 0),  # one cell
        (0, 8, 0, 8),  # one factor
        (0, 0, 0, 0),
        (8, 8, 8, 8),
        (0, 0, 6, 5),  # separation in one factor, and some of both in the other
    ],
)
def test_a_separation_that_adds_up_on_log_odds_is_no_interaction(counts: tuple[int, ...]) -> None:
    cells = {arm: (count, 8) for arm, count in zip("abcd", counts, strict=True)}
    test = interaction_test(outcomes(**cells), SQUARE, "norm", "start")
    assert test.deviance_difference == pytest.approx(0, abs=1e-6)
    assert test.p_value > 0.999


def made_up(log_odds: dict[str, float], studies: int) -> int:
    """How often the interaction is found, with 40 runs an arm."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(studies):
        counts = {
            arm: (int(rng.binomial(40, special.expit(odds))), 40) for arm, odds in log_odds.items()
        }
        hits += interaction_test(outcomes(**counts), SQUARE, "norm", "start").p_value < 0.05
    return hits


def test_factors_that_add_up_interact_in_alpha_of_the_studies() -> None:
    assert_rate(made_up({"a": -1, "b": 0, "c": 0, "d": 1}, 400), 400, 0.05)


def test_a_large_interaction_is_found() -> None:
    assert made_up({"a": -1.5, "b": 1.5, "c": 1.5, "d": -1.5}, 40) == 40


def test_three_levels_take_more_degrees_of_freedom_and_a_third_factor_none() -> None:
    arms = [f"{norm}{start}{size}" for norm, start, size in itertools.product("ABC", "xy", "12")]
    factors = {arm: {"norm": arm[0], "start": arm[1], "size": arm[2]} for arm in arms}
    rng = np.random.default_rng(3)
    counts = {arm: (int(rng.integers(2, 9)), 10) for arm in arms}
    test = interaction_test(outcomes(**counts), factors, "norm", "start")
    assert test.degrees_of_freedom == 2
    assert test.deviance_difference > 0


def test_the_order_of_the_arms_does_not_matter() -> None:
    runs = outcomes(a=(3, 8), b=(5, 8), c=(7, 8), d=(2, 8))
    mixed = {arm: runs[arm] for arm in "dbca"}
    one, other = (interaction_test(table, SQUARE, "norm", "start") for table in (runs, mixed))
    assert one.deviance_difference == pytest.approx(other.deviance_difference)
    swapped = interaction_test(runs, SQUARE, "start", "norm")
    assert swapped.deviance_difference == pytest.approx(one.deviance_difference)


# bad input


def test_bad_groups_are_rejected() -> None:
    runs = outcomes(a=(1, 2), b=(1, 2))
    with pytest.raises(ConfigError, match=said("no arm c ... the arms are a, b")):
        fisher_test(runs, ["a"], ["c"])
    with pytest.raises(ConfigError, match=said("b is in both groups ... leave it out")):
        fisher_test(runs, ["a", "b"], ["b"])
    with pytest.raises(ConfigError, match=said("3 of 2 runs ... from 0")):
        wilson_share(3, 2)
    with pytest.raises(ConfigError, match=said("0 of 0 runs ... at least one run")):
        share_of(runs, [])


def test_bad_factors_are_rejected() -> None:
    runs = outcomes(a=(1, 2), b=(1, 2), c=(0, 2), d=(2, 2))
    with pytest.raises(ConfigError, match=said("norm and rate ... norm, start ... name two")):
        interaction_test(runs, SQUARE, "norm", "rate")
    with pytest.raises(ConfigError, match=said("norm and norm ... name two")):
        interaction_test(runs, SQUARE, "norm", "norm")
    with pytest.raises(ConfigError, match=said("arm b ... ['norm'] ... every factor")):
        interaction_test(runs, {**SQUARE, "b": {"norm": "pre"}}, "norm", "start")
    with pytest.raises(ConfigError, match=said("no interaction of norm and start ... two levels")):
        interaction_test({arm: runs[arm] for arm in "ab"}, SQUARE, "norm", "start")
    with pytest.raises(ConfigError, match="at least one run"):
        interaction_test({**runs, "a": {}}, SQUARE, "norm", "start")
