"""Contrasts against scipy's test of the same numbers, on made-up runs with a known contrast, a
known interaction and none.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import assert_rate, by_seed
from numpy.typing import NDArray
from said import said
from scipy import integrate, stats

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, ContrastTest, Term, analyse_contrasts
from puna.statistics.one_sample import mean_tests
from puna.statistics.paired import DecisionRule, analyse, detectable_effect

Table = NDArray[np.float64]

GATED = Contrast("gated - ungated", (Term(1, ("a", "b")), Term(-1, ("c", "d"))))
INTERACTION = Contrast.of_arms("interaction", {"a": 1, "b": -1, "c": -1, "d": 1})
A_B = Contrast.of_arms("a - b", {"a": 1, "b": -1})
BEST = Contrast("best of b, c - a", (Term(1, ("b", "c"), "best"), Term(-1, ("a",))))


def only(table: Table, contrast: Contrast, **options: bool) -> ContrastTest:
    (result,) = analyse_contrasts(by_seed(table), [contrast], 0.05, **options)
    assert result.test is not None
    return result.test


def runs(arms: int = 4, seeds: int = 5, seed: int = 0) -> Table:
    return np.random.default_rng(seed).normal(2.0, 1.0, (arms, seeds))


@pytest.mark.parametrize(
    ("contrast", "weights"),
    [
        (GATED, [0.5, 0.5, -0.5, -0.5]),
        (INTERACTION, [1, -1, -1, 1]),
        (A_B, [1, -1, 0, 0]),
        (
            Contrast("thirds", (Term(3, ("d",)), Term(-3, ("a", "b", "c")))),
            [-1, -1, -1, 3],
        ),
    ],
)
def test_a_linear_contrast_is_scipys_one_sample_test(
    contrast: Contrast, weights: list[float]
) -> None:
    table = runs()
    values = np.array(weights) @ table
    test, expected = only(table, contrast), stats.ttest_1samp(values, 0)
    assert test.values == pytest.approx(tuple(values))
    assert test.estimate == pytest.approx(values.mean())
    assert test.standard_deviation == pytest.approx(values.std(ddof=1))
    assert test.confidence_interval == pytest.approx(tuple(expected.confidence_interval()))
    assert test.p_value == test.adjusted_p_value == pytest.approx(expected.pvalue)
    assert test.detectable == pytest.approx(values.std(ddof=1) * detectable_effect(5, 0.05))


def test_arm_minus_baseline_is_the_paired_test() -> None:
    table = runs(2)
    paired = analyse(by_seed(table), "b", DecisionRule()).comparisons[0].test
    test = only(table, A_B)
    assert paired is not None
    assert (test.estimate, test.confidence_interval, test.p_value) == (
        paired.mean_difference,
        paired.confidence_interval,
        paired.p_value,
    )


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_best_is_taken_at_each_seed_in_the_metrics_direction(lower_is_better: bool) -> None:
    table = np.array([[1.0, 1.0, 1.0], [2.0, 5.0, 3.0], [4.0, 2.0, 3.5]])
    expected = (1.0, 1.0, 2.0) if lower_is_better else (3.0, 4.0, 2.5)
    assert only(table, BEST, lower_is_better=lower_is_better).values == expected


def test_the_best_of_four_equal_arms_is_better_than_one_by_what_the_docstring_says() -> None:
    """E[max of 4 standard normals], by its integral."""
    expected = integrate.quad(lambda x: x * 4 * stats.norm.pdf(x) * stats.norm.cdf(x) ** 3, -8, 8)[
        0
    ]
    assert expected == pytest.approx(1.03, abs=0.005)
    best = Contrast("best", (Term(1, ("b", "c", "d", "e"), "best"), Term(-1, ("a",))))
    assert only(runs(5, 4000), best).estimate == pytest.approx(-expected, abs=0.08)


# families


def test_the_primary_contrast_stands_alone_and_the_others_share_holm() -> None:
    table = runs(seed=4)
    results = analyse_contrasts(by_seed(table), [INTERACTION, GATED, A_B], 0.05, "gated - ungated")
    p = [result.test.p_value for result in results if result.test]
    adjusted = [result.test.adjusted_p_value for result in results if result.test]
    low, high = sorted([p[0], p[2]])
    assert adjusted[1] == p[1]
    assert sorted([adjusted[0], adjusted[2]]) == pytest.approx(
        [min(1, 2 * low), min(1, max(2 * low, high))]
    )
    assert [result.is_primary for result in results] == [False, True, False]
    assert [
        result.test.detectable / result.test.standard_deviation for result in results if result.test
    ] == pytest.approx([detectable_effect(5, alpha) for alpha in (0.025, 0.05, 0.025)])


def test_without_a_primary_contrast_holm_is_over_all() -> None:
    results = analyse_contrasts(by_seed(runs(seed=4)), [INTERACTION, GATED, A_B], 0.05)
    ordered = sorted((r.test.p_value, r.test.adjusted_p_value) for r in results if r.test)
    assert ordered[0][1] == pytest.approx(min(1, 3 * ordered[0][0]))


def test_no_contrasts_no_results() -> None:
    assert analyse_contrasts(by_seed(runs()), [], 0.05) == ()


# runs that diverged


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_diverged_run_makes_a_mean_untestable_and_is_counted(value: float | None) -> None:
    values: dict[str, dict[int, float | None]] = {**by_seed(runs())}
    values["c"] = {**values["c"], 0: value, 3: value}
    gated, a_b = analyse_contrasts(values, [GATED, A_B], 0.05)
    assert (gated.test, gated.found, gated.diverged) == (None, False, 2)
    assert a_b.test is not None
    assert a_b.diverged == 0
    assert a_b.test.adjusted_p_value == pytest.approx(min(1, 2 * a_b.test.p_value)), (
        "an untestable contrast stays in the family"
    )


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_a_diverged_run_is_never_the_best(lower_is_better: bool) -> None:
    table = np.array([[0.0, 0.0], [-math.inf, 2.0], [3.0, 1.0]])
    (result,) = analyse_contrasts(by_seed(table), [BEST], 0.05, lower_is_better=lower_is_better)
    assert result.test is not None
    assert (result.test.values, result.diverged) == ((3.0, 1.0 if lower_is_better else 2.0), 1)


def test_where_all_diverged_there_is_no_best() -> None:
    table = np.array([[0.0, 0.0], [math.nan, 2.0], [math.nan, 1.0]])
    (result,) = analyse_contrasts(by_seed(table), [BEST], 0.05)
    assert (result.test, result.diverged) == (None, 2)


# rates


def found(effects: list[float], contrast: Contrast, studies: int = 5000) -> int:
    """How often a contrast is found in made-up studies, arm d six times as noisy as the others."""
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(4, studies, 5)) * np.array([1, 1, 1, 6])[:, None, None]
    table = noise + 3 * rng.normal(size=(studies, 5)) + np.array(effects)[:, None, None]
    values = contrast.evaluate(dict(zip("abcd", table, strict=True)), lower_is_better=True)
    return int((mean_tests(values, 0.05).p_value < 0.05).sum())


@pytest.mark.parametrize("contrast", [GATED, INTERACTION, A_B])
def test_equal_arms_are_called_different_at_the_rate_alpha_however_unequal_their_spread(
    contrast: Contrast,
) -> None:
    assert_rate(found([0, 0, 0, 0], contrast), 5000, 0.05)


def test_a_contrast_of_the_detectable_size_is_found_in_80_of_100_studies() -> None:
    """Both a over c and b over d by the effect leave the interaction at 0, and a - b."""
    effect = math.sqrt(0.25 * (3 + 36)) * detectable_effect(5, 0.05)
    effects = [0.0, 0.0, -effect, -effect]
    assert_rate(found(effects, GATED), 5000, 0.8)
    assert_rate(found(effects, INTERACTION), 5000, 0.05)
    assert_rate(found(effects, A_B), 5000, 0.05)


def test_an_interaction_of_the_detectable_size_is_found_in_80_of_100_studies() -> None:
    effect = math.sqrt(3 + 36) * detectable_effect(5, 0.05) / 4
    effects = [effect, -effect, -effect, effect]
    assert_rate(found(effects, INTERACTION), 5000, 0.8)
    assert_rate(found(effects, GATED), 5000, 0.05)


# properties


@given(st.integers(0, 1000), st.floats(-100, 100))
def test_a_shift_of_all_arms_changes_nothing(seed: int, shift: float) -> None:
    table = runs(seed=seed)
    for contrast in (GATED, INTERACTION, BEST):
        plain, shifted = only(table, contrast), only(table + shift, contrast)
        assert shifted.values == pytest.approx(plain.values, abs=1e-9)
        assert shifted.p_value == pytest.approx(plain.p_value, rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000), st.permutations("abcd"))
def test_the_order_of_the_arms_does_not_matter(seed: int, order: list[str]) -> None:
    values = by_seed(runs(seed=seed))
    contrasts = [GATED, INTERACTION, BEST]
    assert analyse_contrasts({arm: values[arm] for arm in order}, contrasts, 0.05) == (
        analyse_contrasts(values, contrasts, 0.05)
    )


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_the_size_of_the_weights_scales_the_estimate_alone(seed: int, scale: float) -> None:
    table = runs(seed=seed)
    larger = Contrast("larger", tuple(Term(scale * t.weight, t.arms) for t in GATED.terms))
    plain, scaled = only(table, GATED), only(table, larger)
    assert scaled.estimate == pytest.approx(scale * plain.estimate)
    assert scaled.p_value == pytest.approx(plain.p_value, rel=1e-6)


# bad input


def test_weights_that_do_not_sum_to_0_are_rejected() -> None:
    with pytest.raises(ConfigError, match=said("'half' ... 0.5 ... must sum to 0 ... 1 and -1")):
        Contrast.of_arms("half", {"a": 1, "b": -0.5})
    with pytest.raises(ConfigError, match="sum to 0"):
        Contrast("empty", ())


def test_thirds_sum_to_0_in_spite_of_rounding() -> None:
    Contrast.of_arms("thirds", {"a": 0.1, "b": 0.2, "c": -0.3})


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_rejected(weight: float) -> None:
    with pytest.raises(ConfigError, match=said(f"{weight} ... finite ... leave the term out")):
        Term(weight, ("a",))


@pytest.mark.parametrize("arms", [(), ("a", "a")])
def test_a_term_without_arms_or_with_one_twice_is_rejected(arms: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=said(f"{list(arms)} ... at least one ... once")):
        Term(1.0, arms)


def test_unknown_arms_names_and_double_names_are_rejected() -> None:
    values = by_seed(runs(2))
    with pytest.raises(ConfigError, match=said("'gated - ungated' ... c, d ... the arms are a, b")):
        analyse_contrasts(values, [GATED], 0.05)
    with pytest.raises(ConfigError, match=said("'b - a' ... a - b ... name one")):
        analyse_contrasts(values, [A_B], 0.05, "b - a")
    with pytest.raises(ConfigError, match=said("two ... 'a - b' ... its own")):
        analyse_contrasts(values, [A_B, A_B], 0.05)
