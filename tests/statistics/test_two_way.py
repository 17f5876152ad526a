"""The additive model against ordinary least squares, Dunnett's adjustment against its integral, the
published table and scipy, and rates over made-up runs.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import ARMS, assert_rate, by_seed
from numpy.typing import NDArray
from scipy import integrate, stats
from statsmodels.regression.linear_model import OLS

from puna.statistics.paired import DecisionRule, analyse
from puna.statistics.two_way import TwoWayAnalysis, analyse_two_way, dunnett

Table = NDArray[np.float64]


def runs(arms: int = 5, seeds: int = 4, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(arms, seeds)) + 3 * rng.normal(size=seeds) + 2.0


def p_of(t: float, family: int, freedom: int) -> float:
    return float(dunnett(np.array([t]), family, freedom)[0])


@pytest.fixture
def no_dunnett(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its integrals are too long for many made-up studies."""
    monkeypatch.setattr("puna.statistics.two_way.dunnett", lambda t, *_: np.ones_like(t))


def test_it_is_least_squares_on_arm_and_seed() -> None:
    """statsmodels' OLS on a design of one column an arm and one a seed but the first, seeds coded
    to sum to 0, so that an arm's column is its mean.
    """
    table = runs()
    arms, seeds = table.shape
    design = np.array(
        [
            [
                *np.eye(arms)[arm],
                *(np.eye(seeds - 1)[seed] if seed < seeds - 1 else -np.ones(seeds - 1)),
            ]
            for arm in range(arms)
            for seed in range(seeds)
        ]
    )
    fit = OLS(table.ravel(), design).fit()
    analysis = analyse_two_way(by_seed(table), "c", 0.1)
    assert analysis.residual_standard_deviation == pytest.approx(math.sqrt(fit.scale))
    assert analysis.degrees_of_freedom == fit.df_resid == 12
    assert [mean.mean for mean in analysis.means] == pytest.approx(fit.params[:arms])
    assert np.array([mean.confidence_interval for mean in analysis.means]) == pytest.approx(
        fit.conf_int(0.1)[:arms]
    )
    for comparison in analysis.comparisons:
        contrast = np.zeros(design.shape[1])
        contrast[ARMS.index(comparison.arm)], contrast[2] = 1, -1
        test = fit.t_test(contrast)
        assert comparison.mean_difference == pytest.approx(test.effect.item())
        assert comparison.p_value == pytest.approx(test.pvalue.item())
        assert comparison.confidence_interval == pytest.approx(tuple(test.conf_int(0.1)[0]))


def test_two_arms_are_the_paired_test() -> None:
    table = runs(2)
    paired = analyse(by_seed(table), "a", DecisionRule()).comparisons[0].test
    analysis = analyse_two_way(by_seed(table), "a", 0.05)
    (comparison,) = analysis.comparisons
    assert paired is not None
    assert comparison.p_value == pytest.approx(paired.p_value)
    assert comparison.dunnett_p_value == pytest.approx(paired.p_value, abs=5e-5)
    assert comparison.confidence_interval == pytest.approx(paired.confidence_interval)
    assert analysis.equal_spread_p_value is None
    assert analyse_two_way(by_seed(runs(4, 2)), "a", 0.05).equal_spread_p_value is None


def test_holm_is_over_the_comparisons() -> None:
    comparisons = analyse_two_way(by_seed(runs()), "a", 0.05).comparisons
    least = min(comparisons, key=lambda one: one.p_value)
    assert least.holm_p_value == pytest.approx(min(1, 4 * least.p_value))


# Dunnett


def double_integral(t: float, family: int, freedom: int) -> float:
    """Dunnett 1955: given the baseline's mean z and the spread s, the arms are
    independent.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / math.sqrt(2 * math.pi)

    def given_spread(s: float) -> float:
        reach = math.sqrt(2) * t * s
        inside = stats.norm.cdf(nodes + reach) - stats.norm.cdf(nodes - reach)
        density = stats.chi.pdf(s * math.sqrt(freedom), freedom) * math.sqrt(freedom)
        return float(weights @ inside**family) * float(density)

    return 1 - float(integrate.quad(given_spread, 0, 5, epsabs=1e-8)[0])


@pytest.mark.parametrize(
    ("t", "family", "freedom"),
    [(0.5, 3, 24), (2.0, 7, 21), (2.7, 7, 49), (3.5, 3, 9), (2.7, 15, 45), (5.0, 8, 24)],
)
def test_dunnetts_p_is_exact_to_four_digits(t: float, family: int, freedom: int) -> None:
    assert p_of(t, family, freedom) == pytest.approx(double_integral(t, family, freedom), abs=5e-5)


@pytest.mark.parametrize(
    ("family", "freedom", "critical"),
    [(2, 20, 2.38), (3, 20, 2.54), (6, 20, 2.80), (2, 10, 2.57), (4, 10, 2.89)],
)
def test_dunnetts_published_table(family: int, freedom: int, critical: float) -> None:
    """Two-sided 5% points, to two decimals (Dunnett 1964, New Tables for Multiple Comparisons with
    a Control).
    """
    assert p_of(critical + 0.006, family, freedom) < 0.05 < p_of(critical - 0.006, family, freedom)


def test_dunnett_agrees_with_scipy_on_separate_groups() -> None:
    """scipy's test is for unpaired groups; its p-values come from t statistics with 12 degrees of
    freedom in the same way.
    """
    groups = np.random.default_rng(2).normal(size=(4, 4))
    found = stats.dunnett(*groups[1:], control=groups[0], rng=np.random.default_rng(0))
    assert dunnett(found.statistic, 3, 12) == pytest.approx(found.pvalue, abs=2e-3)


def test_equal_runs_give_equal_digits() -> None:
    first, second = (analyse_two_way(by_seed(runs()), "a", 0.05) for _ in range(2))
    assert first == second


def test_dunnett_lies_between_no_adjustment_and_bonferroni() -> None:
    for comparison in analyse_two_way(by_seed(runs(seed=7)), "a", 0.05).comparisons:
        assert comparison.p_value - 5e-5 <= comparison.dunnett_p_value
        assert comparison.dunnett_p_value <= min(1, 4 * comparison.p_value) + 5e-5


# rates


def test_equal_arms_are_called_different_in_at_most_alpha_of_the_studies(no_dunnett: None) -> None:
    """Holm's family-wise rate, and that of the largest |t| beyond Dunnett's critical value."""
    low, high = 2.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if double_integral(middle, 4, 12) > 0.05 else (low, middle)
    t_p = 2 * stats.t.sf(low, 12)
    by_holm = by_dunnett = 0
    for seed in range(2000):
        comparisons = analyse_two_way(by_seed(runs(seed=seed)), "a", 0.05).comparisons
        by_holm += min(one.holm_p_value for one in comparisons) < 0.05
        by_dunnett += min(one.p_value for one in comparisons) < t_p
    assert_rate(by_dunnett, 2000, 0.05)
    assert 50 < by_holm <= by_dunnett


def test_it_finds_what_the_paired_test_has_too_few_degrees_of_freedom_for(no_dunnett: None) -> None:
    pooled = paired = 0
    for seed in range(300):
        values = by_seed(runs(seed=seed) + np.array([0, 0, 0, 0, 3.0])[:, None])
        two_way = analyse_two_way(values, "a", 0.05)
        pooled += two_way.comparisons[-1].holm_p_value < 0.05
        paired += analyse(values, "a", DecisionRule()).comparisons[-1].verdict == "worse"
    assert pooled > 1.5 * paired > 75, (pooled, paired)


def test_unequal_spread_is_seen(no_dunnett: None) -> None:
    equal, unequal = [], []
    for seed in range(200):
        table = runs(seats := 5, 8, seed)
        noise = np.random.default_rng(seed + 1000).normal(size=8)
        wild = table + 10 * np.outer(np.arange(seats) == 4, noise)
        equal.append(analyse_two_way(by_seed(table), "a", 0.05).equal_spread_p_value)
        unequal.append(analyse_two_way(by_seed(wild), "a", 0.05).equal_spread_p_value)
    assert sum(p < 0.05 for p in equal if p is not None) <= stats.binom.ppf(0.999, 200, 0.05)
    assert sum(p < 0.05 for p in unequal if p is not None) > 150


def test_the_check_of_spread_is_scipys_on_the_residuals() -> None:
    table = runs()
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    expected = stats.levene(*residuals, center="median").pvalue
    assert analyse_two_way(by_seed(table), "a", 0.05).equal_spread_p_value == pytest.approx(
        expected
    )


# properties


@pytest.mark.usefixtures("no_dunnett")
@given(st.integers(0, 1000), st.floats(-100, 100))
def test_what_a_seed_does_to_all_arms_changes_no_comparison(seed: int, size: float) -> None:
    table = runs(3, seed=seed)
    plain, shifted = (
        analyse_two_way(by_seed(one), "a", 0.05)
        for one in (table, table + size * np.array([1.0, 0, -1, 0.5]))
    )
    assert shifted.residual_standard_deviation == pytest.approx(plain.residual_standard_deviation)
    for one, other in zip(plain.comparisons, shifted.comparisons, strict=True):
        assert other.p_value == pytest.approx(one.p_value, rel=1e-6)


@pytest.mark.parametrize("order", ["edcba", "badce"])
def test_the_order_of_the_arms_does_not_matter(order: str) -> None:
    values = by_seed(runs())
    plain = analyse_two_way(values, "a", 0.05)
    mixed = analyse_two_way({arm: values[arm] for arm in order}, "a", 0.05)
    assert mixed.residual_standard_deviation == pytest.approx(plain.residual_standard_deviation)
    for one in plain.comparisons:
        (other,) = [c for c in mixed.comparisons if c.arm == one.arm]
        assert other.dunnett_p_value == pytest.approx(one.dunnett_p_value, abs=1e-9)
        assert other.holm_p_value == pytest.approx(one.holm_p_value)


# runs that diverged, and no noise


def with_diverged(*rows: int) -> TwoWayAnalysis:
    table = runs(4)
    table[list(rows), 1] = math.nan
    return analyse_two_way(by_seed(table), "a", 0.05)


def test_an_arm_with_a_diverged_run_is_left_out_and_named() -> None:
    analysis = with_diverged(2)
    assert analysis.left_out == ("c",)
    assert [mean.arm for mean in analysis.means] == ["a", "b", "d"]
    assert analysis.degrees_of_freedom == 6
    without = analyse_two_way(by_seed(np.delete(runs(4), 2, axis=0)), "a", 0.05)
    assert analysis.residual_standard_deviation == without.residual_standard_deviation
    least = min(analysis.comparisons, key=lambda one: one.p_value)
    assert least.holm_p_value == pytest.approx(min(1, 3 * least.p_value)), "still of three arms"


def test_a_diverged_baseline_leaves_nothing_to_compare_with() -> None:
    analysis = with_diverged(0)
    assert (analysis.left_out, analysis.comparisons) == (("a",), ())
    assert analysis.residual_standard_deviation is not None


def test_one_arm_left_is_no_model() -> None:
    analysis = with_diverged(0, 1, 2)
    assert analysis.left_out == ("a", "b", "c")
    assert (analysis.residual_standard_deviation, analysis.means) == (None, ())


def test_runs_without_noise_differ_for_certain_or_not_at_all() -> None:
    analysis = analyse_two_way(
        by_seed([[0.1, 0.2, 0.4], [0.1, 0.2, 0.4], [0.2, 0.3, 0.5]]), "a", 0.05
    )
    assert [(one.p_value, one.dunnett_p_value) for one in analysis.comparisons] == [(1, 1), (0, 0)]
    assert analysis.equal_spread_p_value is None


def test_numbers_in_the_docstring() -> None:
    assert stats.t.ppf(0.975, [3, 24]) == pytest.approx([3.18, 2.06], abs=0.005)
