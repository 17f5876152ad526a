"""The simulation of a design: its verdicts against those of the analyses, its rates against exact
power.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up_runs import assert_rate, by_seed
from numpy.typing import NDArray
from said import said

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, Term, analyse_contrasts
from puna.statistics.paired import DecisionRule, analyse, detectable_effect, holm
from puna.statistics.power import (
    Design,
    arm_calls,
    contrast_calls,
    draw_runs,
    equal_covariance,
    holm_rows,
    pilot_covariance,
    simulate_power,
)

Array = NDArray[np.float64]

CONTRASTS = (
    Contrast("half", (Term(1, ("a", "b")), Term(-1, ("c", "d")))),
    Contrast.of_arms("interaction", {"a": 1, "b": -1, "c": -1, "d": 1}),
    Contrast("best", (Term(1, ("a", "b"), "best"), Term(-1, ("c", "d"), "best"))),
)


def design(**changes: object) -> Design:
    settings: dict[str, object] = {
        "arms": tuple("abcd"),
        "baseline": "b",
        "seeds": 5,
        "rule": DecisionRule(),
        "contrasts": CONTRASTS,
        "primary": "interaction",
    }
    return Design(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("primary", [None, "interaction"])
@pytest.mark.parametrize(
    "rule",
    [
        DecisionRule(),
        DecisionRule(alpha=0.2, smallest_difference=0.8, lower_is_better=False),
    ],
    ids=["plain", "with a smallest difference"],
)
def test_the_verdicts_are_those_of_the_analyses(primary: str | None, rule: DecisionRule) -> None:
    """150 made-up studies, each analysed by itself."""
    one = design(rule=rule, primary=primary)
    effects = {"a": 1.2, "c": -1.0}
    runs = draw_runs(one, equal_covariance(4, 1.0, 0.5), effects, repetitions=150, seed=1)
    called, found = arm_calls(one, runs), contrast_calls(one, runs)
    for row, study in enumerate(runs):
        values = by_seed(study)
        verdicts = [
            comparison.verdict in ("better", "worse")
            for comparison in analyse(values, "b", rule).comparisons
        ]
        results = analyse_contrasts(
            values, CONTRASTS, rule.alpha, primary, lower_is_better=rule.lower_is_better
        )
        assert called[row].tolist() == verdicts
        assert found[row].tolist() == [result.found for result in results]
    assert 0 < called.mean() < 1, "or the comparison says nothing"
    assert (found.any(axis=0) & ~found.all(axis=0)).all()


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(1, 6)),
        elements=st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.02, 0.5])),
    )
)
def test_holm_row_by_row_is_holm(p_values: Array) -> None:
    expected = [holm(row) for row in p_values]
    assert holm_rows(p_values) == pytest.approx(np.array(expected))


def test_one_arm_of_the_detectable_effect_is_found_in_80_of_100_studies() -> None:
    """Two runs of deviation 2 and correlation 0.5 differ with a deviation of 2."""
    one = design(arms=("a", "b"), contrasts=(), primary=None)
    effect = 2.0 * detectable_effect(5, 0.05)
    power = simulate_power(one, equal_covariance(2, 2.0, 0.5), {"a": effect}, 4000)
    assert_rate(power.arms["a"].count, 4000, 0.8)
    assert power.any_arm == power.arms["a"]
    assert power.any_secondary is None


def test_with_no_effect_it_is_the_rate_of_false_alarms() -> None:
    power = simulate_power(design(), equal_covariance(4, 1.0, 0.3), {}, 4000)
    assert_rate(power.contrasts["interaction"].count, 4000, 0.05)
    assert power.any_secondary is not None
    for share in (power.any_arm, power.any_secondary):
        assert 0.025 * 4000 < share.count < 0.06 * 4000
        assert share.total == 4000
    low, high = power.any_arm.confidence_interval
    assert low < power.any_arm.count / 4000 < high


def test_a_contrast_of_the_detectable_size_is_found_in_80_of_100_studies() -> None:
    """Arms of unequal spread; sum of w^2 s^2 is the contrast's variance, what is shared drops
    out.
    """
    spread = np.array([1.0, 2.0, 1.0, 3.0])
    covariance = np.diag(spread**2) + 5.0
    effect = math.sqrt((spread**2).sum()) * detectable_effect(5, 0.05)
    power = simulate_power(design(), covariance, {"a": effect}, 4000)
    assert_rate(power.contrasts["interaction"].count, 4000, 0.8)


def test_more_seeds_and_more_correlation_mean_more_power() -> None:
    def rate(seeds: int, correlation: float) -> int:
        covariance = equal_covariance(4, 1.0, correlation)
        return simulate_power(design(seeds=seeds), covariance, {"a": 1.5}).arms["a"].count

    assert rate(4, 0.2) < rate(8, 0.2) < rate(8, 0.8)


def test_equal_seeds_give_equal_results_and_others_do_not() -> None:
    covariance = equal_covariance(4, 1.0, 0.5)
    first, second, third = (
        simulate_power(design(), covariance, {"a": 1.0}, 200, seed) for seed in (0, 0, 1)
    )
    assert first == second != third


def test_runs_have_the_covariance_and_the_means_that_were_asked_for() -> None:
    covariance = np.array([[4.0, 1.0, 0.5, 0], [1, 1, 0, 0], [0.5, 0, 2, 0], [0, 0, 0, 0]])
    runs = draw_runs(design(), covariance, {"c": 7.0}, 4000, 0)
    assert runs.shape == (4000, 4, 5)
    flat = runs.transpose(1, 0, 2).reshape(4, -1)
    assert np.cov(flat) == pytest.approx(covariance, abs=0.12)
    assert flat.mean(axis=1) == pytest.approx([0, 0, 7, 0], abs=0.06)


# the spread of a pilot


def test_the_covariance_of_a_pilot_is_that_of_its_residuals() -> None:
    table = np.random.default_rng(3).normal(size=(3, 6)) + np.array([[0.0], [5.0], [-5.0]])
    residuals = table - table.mean(axis=1, keepdims=True)
    expected = residuals @ residuals.T / 5
    assert pilot_covariance(by_seed(table), ("a", "b", "c")) == pytest.approx(expected)
    assert pilot_covariance(by_seed(table), ("c", "a")) == pytest.approx(
        expected[np.ix_([2, 0], [2, 0])]
    )


def test_a_pilot_of_fewer_seeds_than_arms_can_be_drawn_from() -> None:
    """Its covariance is of rank 2."""
    table = np.random.default_rng(4).normal(size=(4, 3))
    covariance = pilot_covariance(by_seed(table), tuple("abcd"))
    flat = draw_runs(design(), covariance, {}, 4000, 0).transpose(1, 0, 2).reshape(4, -1)
    assert np.cov(flat) == pytest.approx(covariance, abs=0.1 * covariance.max())


def test_a_pilot_without_complete_runs_is_rejected() -> None:
    table = np.random.default_rng(5).normal(size=(2, 3))
    table[1, 0] = math.nan
    with pytest.raises(ConfigError, match=said("runs of b, z ... another pilot")):
        pilot_covariance(by_seed(table), ("a", "b", "z"))


def test_a_shared_spread_makes_differences_of_the_stated_deviation() -> None:
    covariance = equal_covariance(2, 3.0, 0.75)
    difference = np.array([1, -1])
    assert difference @ covariance @ difference == pytest.approx((3 * math.sqrt(2 * 0.25)) ** 2)


# bad input


@pytest.mark.parametrize(("spread", "correlation"), [(-1, 0.5), (1, 1.1), (1, -0.1), (math.nan, 0)])
def test_a_spread_or_correlation_out_of_bounds_is_rejected(
    spread: float, correlation: float
) -> None:
    with pytest.raises(ConfigError, match=said(f"{spread} ... {correlation} ... from 0 to 1")):
        equal_covariance(3, spread, correlation)


def test_bad_designs_are_rejected() -> None:
    with pytest.raises(ConfigError, match=said("baseline 'z' ... add")):
        design(baseline="z")
    with pytest.raises(ConfigError, match=said("a, b, a")):
        design(arms=("a", "b", "a"))
    with pytest.raises(ConfigError, match=said("seeds: 1 ... at least 2")):
        design(seeds=1)
    with pytest.raises(ConfigError, match=said("'other' ... name one")):
        design(primary="other")
    with pytest.raises(ConfigError, match=said("'half' ... c, d")):
        design(arms=("a", "b"))


def test_bad_matrices_and_effects_are_rejected() -> None:
    with pytest.raises(ConfigError, match=said("no arm z ... a, b, c, d")):
        simulate_power(design(), np.eye(4), {"z": 1.0})
    with pytest.raises(ConfigError, match=said("(3, 3) ... 4 arms ... 4 x 4")):
        simulate_power(design(), np.eye(3), {})
    with pytest.raises(ConfigError, match="symmetric"):
        simulate_power(design(), np.triu(np.ones((4, 4))), {})
    with pytest.raises(ConfigError, match=said("eigenvalue -1 ... negative variance ... lower")):
        simulate_power(design(), 2 * np.ones((4, 4)) - np.eye(4), {})
