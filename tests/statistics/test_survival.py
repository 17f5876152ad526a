"""Times to a level against a textbook's leukaemia data, arithmetic by hand, and made-up runs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import assert_rate
from said import said
from scipy import stats

from puna.errors import ConfigError
from puna.statistics.survival import TimeToLevel, log_rank_test, median_time, time_to_level


def times(text: str) -> list[TimeToLevel]:
    """Times between spaces; + after one that did not reach the level."""
    return [TimeToLevel(float(one.strip("+")), not one.endswith("+")) for one in text.split()]


# Freireich et al. 1963: weeks in remission of 21 pairs of patients, with 6-mercaptopurine and with
# a placebo
TREATED = times("6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+")
PLACEBO = times("1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23")

CURVE = [(10.0, 5.0), (20.0, 3.0), (30.0, 3.5), (40.0, 2.0)]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (5.0, TimeToLevel(10, reached=True)),
        (3.2, TimeToLevel(20, reached=True)),
        (3.0, TimeToLevel(20, reached=True)),
        (2.5, TimeToLevel(40, reached=True)),
        (1.9, TimeToLevel(40, reached=False)),
    ],
)
def test_the_time_is_the_first_look_at_or_below_the_level(
    level: float, expected: TimeToLevel
) -> None:
    assert time_to_level(CURVE, level, lower_is_better=True) == expected


def test_where_more_is_better_it_is_the_first_look_at_or_above() -> None:
    rising = [(time, -value) for time, value in CURVE]
    assert time_to_level(rising, -3.0, lower_is_better=False) == (20, True)
    assert time_to_level(rising, -1.0, lower_is_better=False) == (40, False)


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("lower_is_better", [True, False])
def test_a_run_that_diverged_reaches_nothing(value: float, lower_is_better: bool) -> None:
    looks = [(1.0, value), (2.0, value)]
    assert time_to_level(looks, 3.0, lower_is_better=lower_is_better) == (2.0, False)


@pytest.mark.parametrize("curve", [[], [(2.0, 1.0), (1.0, 1.0)], [(1.0, 1.0), (1.0, 1.0)]])
def test_a_curve_without_order_is_rejected(curve: list[tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match=said("at least one look ... rising order")):
        time_to_level(curve, 1.0, lower_is_better=True)


# the median


def test_the_published_medians() -> None:
    """23 weeks and 8 weeks; the treated's interval has no upper end, for their curve stays near one
    half until the last of them leaves the study.
    """
    treated, placebo = median_time(TREATED), median_time(PLACEBO)
    assert (treated.median, treated.reached, treated.runs) == (23, 9, 21)
    assert treated.confidence_interval == (13, None)
    assert (placebo.median, placebo.confidence_interval) == (8, (4, 11))


def test_the_median_by_the_product_of_shares() -> None:
    """At 3 of 5 at risk after two censored, 1 - 1/3 = 0.67; at 5 of 2 left, 0.33."""
    assert median_time(times("1+ 2+ 3 5 7+")).median == 5


@pytest.mark.parametrize("text", ["5+ 7+", "1 7+ 7+ 7+"])
def test_where_most_runs_never_reach_the_level_there_is_no_median(text: str) -> None:
    assert median_time(times(text)).median is None


def test_leaving_out_the_censored_would_have_shortened_the_median() -> None:
    reached = [run for run in TREATED if run.reached]
    assert (median_time(reached).median or 0) < 23


def test_a_curve_that_is_one_half_but_for_rounding_is_one_half() -> None:
    """statsmodels' curve is there 0.5 less 1e-16, or more, by the order of the logarithms."""
    assert median_time(times("1 2 2 2 3 3 4 5")).median == 2
    assert median_time(times("1 2 3 4")).median == 2


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_without_censoring_it_is_the_middle_run_or_the_earlier_of_two(values: list[int]) -> None:
    runs = [TimeToLevel(float(value), reached=True) for value in values]
    assert median_time(runs).median == sorted(values)[(len(values) - 1) // 2]


def test_no_runs_are_rejected() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        median_time([])


# the log-rank test


def test_the_published_log_rank_test() -> None:
    """Chi squared 16.79; R's survdiff prints 16.8 and p = 4e-05 for the same data."""
    test = log_rank_test({"treated": TREATED, "placebo": PLACEBO})
    assert test.statistic == pytest.approx(16.79, abs=0.005)
    assert test.p_value == pytest.approx(4.17e-5, rel=1e-3)
    assert test.degrees_of_freedom == 1


def test_the_statistic_by_hand() -> None:
    """a at 1 and 2, b at 3 and 4+. Expected of a: 2/4 + 1/3, observed 2; variance 1/4 + 2/9."""
    test = log_rank_test({"a": times("1 2"), "b": times("3 4+")})
    assert test.statistic == pytest.approx((2 - 5 / 6) ** 2 / (1 / 4 + 2 / 9))


def test_it_agrees_with_scipy() -> None:
    def sample(runs: list[TimeToLevel]) -> stats.CensoredData:
        return stats.CensoredData(
            uncensored=[run.time for run in runs if run.reached],
            right=[run.time for run in runs if not run.reached],
        )

    expected = stats.logrank(sample(TREATED), sample(PLACEBO))
    test = log_rank_test({"treated": TREATED, "placebo": PLACEBO})
    assert test.statistic == pytest.approx(expected.statistic**2)
    assert test.p_value == pytest.approx(expected.pvalue)


def test_groups_alike_are_called_different_in_alpha_of_the_studies() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(1000):
        drawn, limit = rng.exponential(size=(2, 20)), rng.uniform(0.5, 2.5, size=(2, 20))
        groups = {
            name: [
                TimeToLevel(min(time, end), bool(time <= end))
                for time, end in zip(drawn[row].tolist(), limit[row].tolist(), strict=True)
            ]
            for row, name in enumerate("ab")
        }
        hits += log_rank_test(groups).p_value < 0.05
    assert_rate(hits, 1000, 0.05)


def test_the_order_of_the_groups_and_the_unit_of_time_do_not_matter() -> None:
    third = times("3 9 9+ 14 30+")
    groups = {"x": TREATED, "y": PLACEBO, "z": third}
    test = log_rank_test(groups)
    assert test.degrees_of_freedom == 2
    other = {name: [run._replace(time=run.time * 1024) for run in groups[name]] for name in "zxy"}
    assert log_rank_test(other).statistic == pytest.approx(test.statistic)


@pytest.mark.parametrize(
    ("first", "second"), [("5+ 5+", "5+ 7+"), ("5 5", "5 5"), ("5 6", "4+"), ("5", "5")]
)
def test_runs_that_tell_nothing_have_p_1(first: str, second: str) -> None:
    test = log_rank_test({"a": times(first), "b": times(second)})
    assert (test.statistic, test.p_value) == (0, 1)


def test_a_group_that_ends_before_the_first_event_tells_nothing() -> None:
    with_it = log_rank_test({"a": times("5 6"), "b": times("7 8+"), "c": times("3+ 2+")})
    assert with_it == log_rank_test({"a": times("5 6"), "b": times("7 8+")})


def test_one_group_or_an_empty_one_is_rejected() -> None:
    with pytest.raises(ConfigError, match=said("groups a ... at least two")):
        log_rank_test({"a": PLACEBO})
    with pytest.raises(ConfigError, match=said("groups a, b ... at least one run")):
        log_rank_test({"a": PLACEBO, "b": []})
