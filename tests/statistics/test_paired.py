"""The statistics of a study, on made-up studies where the truth is known, against scipy, published
values and hand-worked examples.

A rate over many made-up studies must lie in the interval that holds 99.9% of a binomial count
around what it should be.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from puna.errors import ConfigError
from puna.statistics.paired import (
    POWER,
    Analysis,
    DecisionRule,
    PairedTest,
    analyse,
    detectable_effect,
    holm,
)
from puna.statistics.run_table import ADVISED_SEEDS

ARMS = "abcdefgh"


Table = NDArray[np.float64]  # [arms, seeds], the baseline first


def studied(table: Table, rule: DecisionRule = DecisionRule()) -> Analysis:  # noqa: B008  (frozen)
    return analyse(
        {arm: dict(enumerate(runs.tolist())) for arm, runs in zip(ARMS, table, strict=False)},
        "a",
        rule,
    )


def the_test(analysis: Analysis) -> PairedTest:
    test = analysis.comparisons[0].test
    assert test is not None
    return test


def repeated(
    studies: int,
    arms: int,
    seeds: int = ADVISED_SEEDS,
    *,
    effects: tuple[float, ...] = (),
    shared: float = 1.0,
) -> Iterator[Analysis]:
    """Made-up studies: a baseline and `arms` arms with runs normal(0, 1), what a seed does to all
    arms, and each arm's true effect.
    """
    rng = np.random.default_rng(11)
    truth = np.array([0.0, *effects, *[0.0] * (arms - len(effects))])[:, None]
    for _ in range(studies):
        yield studied(
            3.0 + rng.normal(size=(arms + 1, seeds)) + shared * rng.normal(size=seeds) + truth
        )


def differing(analysis: Analysis) -> set[str]:
    return {
        comparison.arm for comparison in analysis.comparisons if comparison.verdict != "undecided"
    }


def assert_rate(hits: list[bool], expected: float) -> None:
    low, high = stats.binom.interval(0.999, len(hits), expected)
    assert low <= sum(hits) <= high, (
        f"{sum(hits)} of {len(hits)}, {expected:.1%} expected: outside {low:.0f} to {high:.0f}"
    )


# what a study does over many repetitions


@pytest.mark.parametrize("seeds", [2, 4])
def test_one_arm_equal_to_the_baseline_is_called_different_in_alpha_of_the_studies(
    seeds: int,
) -> None:
    assert_rate([bool(differing(analysis)) for analysis in repeated(2000, 1, seeds)], 0.05)


def test_alpha_is_what_the_rule_says() -> None:
    rng, rule = np.random.default_rng(2), DecisionRule(alpha=0.2)
    assert_rate([bool(differing(studied(rng.normal(size=(2, 4)), rule))) for _ in range(2000)], 0.2)


def test_with_six_equal_arms_any_is_called_different_in_no_more_than_alpha_of_the_studies() -> None:
    """The family-wise rate. Differences share the baseline, so they move together and the rate
    stays somewhat below alpha.
    """
    hits = [bool(differing(analysis)) for analysis in repeated(2500, 6)]
    assert sum(hits) <= stats.binom.ppf(0.999, len(hits), 0.05)
    assert sum(hits) >= stats.binom.ppf(0.001, len(hits), 0.025), (
        "a procedure that never finds anything would pass the line above"
    )


def test_without_the_adjustment_six_equal_arms_would_fool_many_more_studies() -> None:
    """What Holm is for: the same studies, each p-value by itself."""
    unadjusted = [
        any(c.test is not None and c.test.p_value < 0.05 for c in analysis.comparisons)
        for analysis in repeated(1000, 6)
    ]
    assert sum(unadjusted) / len(unadjusted) > 0.15


def test_arms_that_do_differ_do_not_raise_the_rate_for_those_that_do_not() -> None:
    """Holm holds the family-wise rate whichever hypotheses are true, with large effects in b and c
    and none in d and e.
    """
    found = [differing(analysis) for analysis in repeated(2000, 4, 6, effects=(30.0, -30.0))]
    assert all({"b", "c"} <= arms for arms in found)
    false = [bool(arms & {"d", "e"}) for arms in found]
    assert sum(false) <= stats.binom.ppf(0.999, len(false), 0.05)
    assert sum(false) >= stats.binom.ppf(0.001, len(false), 0.025)


def test_holm_on_independent_p_values_errs_at_the_rate_that_theory_gives() -> None:
    """1 - (1 - alpha/m)^m for m independent true hypotheses."""
    p = np.random.default_rng(3).uniform(size=(10000, 5))
    assert_rate([min(holm(row)) < 0.05 for row in p], 1 - (1 - 0.05 / 5) ** 5)


@pytest.mark.parametrize("noise", ["lognormal", "standard_cauchy"])
def test_skewed_or_heavy_tailed_runs_do_not_raise_the_rate(noise: str) -> None:
    rng = np.random.default_rng(5)
    hits = [bool(differing(studied(getattr(rng, noise)(size=(2, 4))))) for _ in range(1500)]
    assert sum(hits) <= stats.binom.ppf(0.999, len(hits), 0.05)


def test_the_interval_holds_the_true_difference_in_95_of_100_studies() -> None:
    effect = -2.5
    tests = [the_test(analysis) for analysis in repeated(2000, 1, effects=(effect,))]
    assert_rate(
        [test.confidence_interval[0] <= effect <= test.confidence_interval[1] for test in tests],
        0.95,
    )


@pytest.mark.parametrize("seeds", [2, 4, 8])
def test_an_effect_of_the_detectable_size_is_found_in_80_of_100_studies(seeds: int) -> None:
    # two runs of variance 1 make a difference of variance 2
    effect = math.sqrt(2) * detectable_effect(seeds, 0.05)
    analyses = list(repeated(1500, 1, seeds, effects=(-effect,)))
    assert_rate([analysis.comparisons[0].verdict == "better" for analysis in analyses], POWER)


def test_an_arm_alone_in_differing_among_four_is_found_in_80_of_100_studies() -> None:
    """At Holm's first level, alpha / 4; that a false alarm elsewhere eases the next level adds less
    than a hundredth.
    """
    effect = math.sqrt(2) * detectable_effect(6, 0.05 / 4)
    assert_rate(
        ["b" in differing(analysis) for analysis in repeated(1500, 4, 6, effects=(effect,))], POWER
    )


def test_every_arm_has_a_detectable_difference_of_its_own_spread() -> None:
    """A wild arm does not move that of a quiet one."""
    quiet = shifted(-0.5, noise=0.01)
    table = np.concatenate([quiet, shifted(0.0, noise=1.0)[1:], quiet[1:]])
    table[3, 0] = math.nan
    analysis = studied(table)
    effect = detectable_effect(4, 0.05 / 3)
    spread = math.sqrt(4 / 3)  # of +1, -1, +1, -1
    assert analysis.detectable_differences == pytest.approx(
        {"b": 0.01 * spread * effect, "c": spread * effect}
    )


def test_pairs_find_what_unpaired_groups_miss_when_seeds_share_their_noise() -> None:
    paired = unpaired = 0
    rng = np.random.default_rng(7)
    for _ in range(400):
        table = 0.1 * rng.normal(size=(2, 4)) + rng.normal(size=4) + [[0.0], [0.4]]
        paired += bool(differing(studied(table)))
        unpaired += bool(stats.ttest_ind(*table).pvalue < 0.05)
    assert unpaired < 40
    assert paired > 200


def test_pairing_gain_is_what_the_correlation_gives() -> None:
    """1 / (1 - r), with r = 0.9, measured over enough seeds to see it; 1 where nothing is
    shared.
    """
    (shared,) = repeated(1, 1, 4000, shared=3.0)
    (alone,) = repeated(1, 1, 4000, shared=0.0)
    assert shared.pairing_gain == pytest.approx(10, rel=0.1)
    assert alone.pairing_gain == pytest.approx(1, rel=0.1)


# exact values


@given(
    st.lists(
        st.tuples(*[st.floats(-100, 100).map(lambda x: round(x, 4))] * 2), min_size=2, max_size=9
    ),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_the_test_is_scipys_paired_t_test(pairs: list[tuple[float, float]], alpha: float) -> None:
    table = np.array(pairs).T
    differences = table[1] - table[0]
    if differences.std() < 1e-3:
        return  # scipy warns of lost precision; the tests below have these cases
    test, expected = (
        the_test(studied(table, DecisionRule(alpha))),
        stats.ttest_rel(table[1], table[0]),
    )
    assert test.differences == tuple(differences)
    assert test.mean_difference == pytest.approx(differences.mean())
    assert test.standard_deviation == pytest.approx(stats.tstd(differences))
    assert test.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)
    assert test.adjusted_p_value == test.p_value
    assert test.confidence_interval == pytest.approx(
        tuple(expected.confidence_interval(1 - alpha)), rel=1e-9, abs=1e-9
    )


def test_students_own_sleep_data_give_the_published_values() -> None:
    """Student 1908, table 1, as R's `sleep`: t.test(paired = TRUE) prints p-value = 0.002833 and
    the interval -2.4598858 -0.7001142.
    """
    first, second = (
        [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
        [
            1.9,
            0.8,
            1.1,
            0.1,
            -0.1,
            4.4,
            5.5,
            1.6,
            4.6,
            3.4,
        ],
    )
    test = the_test(studied(np.array([second, first])))
    assert test.mean_difference == pytest.approx(-1.58)
    assert test.p_value == pytest.approx(0.002833, abs=5e-7)
    assert test.confidence_interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 held up at 0.06
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.9, 0.4], [0.9, 0.8]),
        ([0.9, 0.6], [1.0, 1.0]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """An independent definition: the largest Bonferroni p-value, |S| min p, over all subsets S that
    the hypothesis belongs to.
    """
    indices = range(len(p_values))
    subsets = [
        s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)
    ]
    closed = [
        max(min(1, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s)
        for i in indices
    ]
    assert holm(p_values) == pytest.approx(closed)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_detectable_effect_agrees_with_published_sample_sizes(
    effect: float, pairs: int
) -> None:
    """The pairs for 80% power at 0.05 two-sided that G*Power gives for Cohen's small, medium and
    large effects; one less is not enough.
    """
    assert detectable_effect(pairs, 0.05) <= effect < detectable_effect(pairs - 1, 0.05)


def test_numbers_in_the_docstrings() -> None:
    assert stats.t.ppf(0.975, 3) == pytest.approx(3.18, abs=0.005)
    # r from which pairing is shorter
    assert 1 - (stats.t.ppf(0.975, 6) / stats.t.ppf(0.975, 3)) ** 2 == pytest.approx(
        0.41, abs=0.005
    )
    assert (1.96 + 0.84) / math.sqrt(4) == pytest.approx(1.40)
    assert detectable_effect(4, 0.05) == pytest.approx(2.13, abs=0.005)
    assert (POWER, DecisionRule().alpha, DecisionRule().smallest_difference) == (0.8, 0.05, 0)


# verdicts


def shifted(by: float, *, noise: float = 0.01) -> Table:
    base = np.array([1.0, 1.5, 0.8, 1.2])
    return np.array([base, base + by + noise * np.array([1, -1, 1, -1])])


@pytest.mark.parametrize(
    ("by", "lower_is_better", "verdict"),
    [
        (-0.5, True, "better"),
        (0.5, True, "worse"),
        (-0.5, False, "worse"),
        (0.5, False, "better"),
        (0.0, True, "undecided"),
    ],
)
def test_the_verdict_follows_the_metrics_direction(
    by: float, lower_is_better: bool, verdict: str
) -> None:
    assert (
        studied(shifted(by), DecisionRule(lower_is_better=lower_is_better)).comparisons[0].verdict
        == verdict
    )


@pytest.mark.parametrize(("smallest", "verdict"), [(0.499, "better"), (0.501, "undecided")])
def test_a_difference_too_small_to_matter_is_undecided_however_sure(
    smallest: float, verdict: str
) -> None:
    comparison = studied(shifted(-0.5), DecisionRule(smallest_difference=smallest)).comparisons[0]
    assert comparison.test is not None
    assert comparison.test.p_value < 0.001
    assert comparison.verdict == verdict


def test_the_rule_asks_for_more_than_the_smallest_difference_and_less_than_alpha() -> None:
    rule = DecisionRule(alpha=0.05, smallest_difference=0.5)
    assert [rule.verdict(-0.5, 0.01), rule.verdict(-0.51, 0.05), rule.verdict(-0.51, 0.049)] == [
        "undecided",
        "undecided",
        "better",
    ]


def test_runs_equal_to_the_bit_differ_by_nothing() -> None:
    """Two equal arms on a machine that repeats itself."""
    analysis = studied(np.array([[1.0, 1.5, 0.8, 1.2]] * 2))
    test = the_test(analysis)
    assert (test.mean_difference, test.confidence_interval, test.p_value) == (0, (0, 0), 1)
    assert (
        analysis.comparisons[0].verdict,
        analysis.detectable_differences,
        analysis.pairing_gain,
    ) == ("undecided", {"b": 0}, math.inf)


@pytest.mark.parametrize(("seeds", "verdict"), [(3, "undecided"), (8, "better")])
def test_a_difference_the_same_in_every_seed_is_a_matter_of_signs(seeds: int, verdict: str) -> None:
    baseline = np.arange(float(seeds))
    test = the_test(analysis := studied(np.stack([baseline, baseline - 0.5])))
    expected = stats.binomtest(seeds, seeds).pvalue
    assert (test.mean_difference, analysis.comparisons[0].verdict) == (-0.5, verdict)
    assert test.p_value == pytest.approx(expected, rel=1e-12)


@given(st.permutations(range(1, 6)), st.permutations(range(4)))
def test_neither_the_order_of_the_arms_nor_that_of_the_seeds_matters(
    arms: list[int], seeds: list[int]
) -> None:
    table = np.random.default_rng(1).normal(size=(6, 4)) + np.array([0, 8, -8, 3, 0, 0])[:, None]
    values = {ARMS[arm]: {seed: float(table[arm, seed]) for seed in seeds} for arm in [*arms, 0]}
    mixed, plain = analyse(values, "a", DecisionRule()), studied(table)
    assert sorted(mixed.comparisons, key=lambda c: c.arm) == list(plain.comparisons)
    assert [c.arm for c in mixed.comparisons] == [ARMS[arm] for arm in arms]
    assert (mixed.noise_floor, mixed.seeds) == (plain.noise_floor, plain.seeds)


def test_the_noise_floor_is_the_spread_of_the_baselines_own_seeds() -> None:
    floor = studied(shifted(-0.5)).noise_floor
    assert (floor.diverged, floor.mean, floor.standard_deviation) == (
        0,
        1.125,
        pytest.approx(stats.tstd([1.0, 1.5, 0.8, 1.2])),
    )


# runs that diverged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_arm_with_a_diverged_run_has_that_verdict_and_no_mean(value: float) -> None:
    table = np.concatenate([shifted(-0.5), shifted(-0.5)[1:]])
    table[2, 1] = table[2, 3] = value
    sound, diverged = studied(table).comparisons
    assert (diverged.verdict, diverged.diverged, diverged.test) == ("diverged", 2, None)
    assert (sound.verdict, sound.diverged) == ("better", 0)


def test_a_run_recorded_as_none_diverged() -> None:
    (comparison,) = analyse(
        {"a": {0: 1.0, 1: 1.1}, "b": {0: None, 1: 1.0}}, "a", DecisionRule()
    ).comparisons
    assert (comparison.verdict, comparison.diverged) == ("diverged", 1)


def test_a_diverged_arm_keeps_its_place_in_the_family() -> None:
    table = np.concatenate([shifted(-0.5, noise=0.1)] + [shifted(0)[1:]] * 2)
    table[2:, 0] = math.nan
    test = the_test(studied(table))
    assert test.adjusted_p_value == pytest.approx(3 * test.p_value)


def test_a_diverged_baseline_leaves_nothing_to_compare_with() -> None:
    table = np.concatenate([shifted(-0.5), shifted(-0.5)[1:]])
    table[0, 0], table[2, 0] = math.nan, math.inf
    analysis = studied(table)
    assert dataclasses.astuple(analysis.noise_floor) == (1, None, None)
    assert [(c.verdict, c.diverged, c.test) for c in analysis.comparisons] == [
        ("undecided", 0, None),
        ("diverged", 1, None),
    ]
    assert (analysis.detectable_differences, analysis.pairing_gain) == ({}, None)


# bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"a": {0: 1.0}, "b": {0: 1.0}},
            "1 seed cannot tell a difference from noise: at least 2 are needed, 4 or more advised",
        ),
        ({"a": {}, "b": {}}, "0 seeds cannot tell"),
        ({"a": {0: 1.0, 1: 1.0}}, "only the arm a, with nothing to compare: add an arm"),
        (
            {"b": {0: 1.0, 1: 1.0}, "c": {0: 1.0, 1: 1.0}},
            "the baseline 'a' is none of the arms b, c",
        ),
        (
            {"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0, 2: 1.0}},
            "the arms 'a' and 'b' do not share seed 1, 2: .* every seed in every arm",
        ),
    ],
)
def test_a_table_that_cannot_be_paired_is_rejected(
    values: dict[str, dict[int, float]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        analyse(values, "a", DecisionRule())


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_alpha_that_is_no_probability_is_rejected(alpha: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        DecisionRule(alpha=alpha)


@pytest.mark.parametrize("smallest", [-0.1, math.inf, math.nan])
def test_a_smallest_difference_that_is_no_size_is_rejected(smallest: float) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        DecisionRule(smallest_difference=smallest)


def test_results_are_frozen() -> None:
    analysis = studied(shifted(0.5))
    for result in (
        analysis,
        analysis.rule,
        analysis.noise_floor,
        analysis.comparisons[0],
        the_test(analysis),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, dataclasses.fields(result)[0].name, None)
