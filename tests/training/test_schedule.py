"""Learning-rate factors, against values worked out by hand."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.training.schedule import SCHEDULES, learning_rate_factor, linear, wsd

ROOT_HALF = math.sqrt(0.5)


def options(schedule: str, final: float) -> dict[str, float]:
    """The final factor and the share of the decay, for a schedule that takes one."""
    values = {"final_factor": final, "decay_share": 0.2}
    return {key: values[key] for key in SCHEDULES[schedule].options}


@pytest.mark.parametrize(
    ("schedule", "final", "values"),
    [
        # at 0, 1/4, 1/2, 3/4 and 1 of the way
        ("constant", 0.1, [1, 1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25, 0]),
        ("linear", 0.2, [1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 0.0, [1, (1 + ROOT_HALF) / 2, 0.5, (1 - ROOT_HALF) / 2, 0]),
        ("cosine", 0.1, [1, 0.1 + 0.45 * (1 + ROOT_HALF), 0.55, 0.1 + 0.45 * (1 - ROOT_HALF), 0.1]),
        ("wsd", 0.0, [1, 1, 1, 1, 0]),
    ],
)
def test_closed_forms(schedule: str, final: float, values: list[float]) -> None:
    factor = SCHEDULES[schedule].load()
    assert [
        factor(quarter / 4, **options(schedule, final)) for quarter in range(5)
    ] == pytest.approx(values)


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.8, 1.0), (0.85, 0.775), (0.9, 0.55), (0.95, 0.325), (1.0, 0.1)]
)
def test_wsd_falls_in_its_last_fifth(progress: float, factor: float) -> None:
    assert wsd(progress, 0.1, 0.2) == pytest.approx(factor)


@given(st.floats(0, 1), st.floats(0, 1))
def test_wsd_that_falls_all_the_way_is_linear(progress: float, final: float) -> None:
    assert wsd(progress, final, 1.0) == linear(progress, final)


@pytest.mark.parametrize(("progress", "factor"), [(0.4, 1.0), (0.7, 0.525), (1.0, 0.05)])
def test_wsd_falls_in_the_share_that_it_is_given(progress: float, factor: float) -> None:
    assert wsd(progress, 0.05, 0.6) == pytest.approx(factor)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_steps_of_a_short_run(schedule: str) -> None:
    """Four steps of warm-up, then six of the schedule: its first value at step 4, its value at 5/6
    at the last step, 9.
    """
    factors = [
        learning_rate_factor(step, schedule=schedule, steps=10, warmup=4, **options(schedule, 0.1))
        for step in range(10)
    ]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[5:] == pytest.approx(
        [SCHEDULES[schedule].load()(sixths / 6, **options(schedule, 0.1)) for sixths in range(1, 6)]
    )


def test_the_last_step_is_never_wasted() -> None:
    """With final = 0 the update after the last step would have rate 0; the last one itself still
    moves.
    """
    assert learning_rate_factor(
        9, schedule="linear", steps=10, warmup=0, final_factor=0.0
    ) == pytest.approx(0.1)
    assert learning_rate_factor(0, schedule="linear", steps=1, warmup=0, final_factor=0.0) == 1.0


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.floats(0, 1),
)
def test_rises_to_one_then_never_rises_again_nor_falls_below_the_final_factor(
    schedule: str, sizes: tuple[int, int], final: float
) -> None:
    steps, warmup = sizes
    factors = [
        learning_rate_factor(
            step, schedule=schedule, steps=steps, warmup=warmup, **options(schedule, final)
        )
        for step in range(steps)
    ]
    assert max(factors) == factors[warmup] == 1.0
    assert min(factors) > 0
    assert all(a < b for a, b in pairwise(factors[:warmup]))
    rest = factors[warmup:]
    assert all(a >= b - 1e-12 for a, b in pairwise(rest))
    assert min(rest) >= final - 1e-12
