"""Series: smoothing and thinning as closed forms."""

import numpy as np
import pytest

from puna.plots.series import Series


def series(values) -> Series:
    return Series(np.arange(1.0, len(values) + 1), np.array(values, dtype=np.float64))


def test_smoothing_keeps_a_straight_line_up_to_the_right_end():
    line = np.linspace(9, 2, 101)
    smooth = series(line).smoothed(5).values
    np.testing.assert_allclose(smooth[:90], line[:90])
    assert smooth[0] == line[0]
    assert abs(smooth[-1] - line[-1]) < 0.5


def test_smoothing_spreads_a_spike_over_a_triangle():
    spike = np.zeros(41)
    spike[20] = 9.0
    np.testing.assert_allclose(
        series(spike).smoothed(1).values[17:24], [0, 1, 2, 3, 2, 1, 0], atol=1e-12
    )


def test_a_huge_spike_does_not_drown_what_comes_after_it():
    """A running sum would lose the small values behind a gradient norm of 1e30 to rounding."""
    values = np.ones(200)
    values[50] = 1e30
    np.testing.assert_allclose(series(values).smoothed(5).values[61:], 1.0)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_window_wider_than_the_series_is_cut(length):
    assert len(series(range(length)).smoothed(10)) == length


@pytest.mark.parametrize("length", [1000, 1001, 99_999])
def test_thinning_keeps_the_ends_and_every_extreme(length):
    values = np.sin(np.arange(length))
    values[length // 3], values[length // 2] = 50.0, -50.0
    thin = series(values).thinned(200)
    assert len(thin) <= 200
    assert (thin.steps[0], thin.steps[-1]) == (1, length)
    assert (thin.values.max(), thin.values.min()) == (50.0, -50.0)
    assert np.all(np.diff(thin.steps) > 0)


def test_a_short_series_is_not_thinned():
    short = series(range(10))
    assert short.thinned(10) is short
