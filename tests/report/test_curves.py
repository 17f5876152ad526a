"""Series and charts: smoothing and thinning as closed forms, and what a chart decides about its
axes.
"""

from xml.etree import ElementTree

import numpy as np
import pytest

from puna.report.charts import run_charts
from puna.report.curves import MAX_POINTS, Chart, Line, Yardstick
from puna.report.series import Series


def series(values) -> Series:
    return Series(np.arange(1.0, len(values) + 1), np.array(values, dtype=np.float64))


def chart(values, **changed) -> Chart:
    return Chart("test", "Test", "units", (Line("training", series(values), "train"),), **changed)


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


def test_a_spike_asks_for_a_log_scale_unless_a_value_is_zero():
    assert not chart([1, 2, 3]).log_scale
    assert chart([1, 1, 1, 21]).log_scale
    assert not chart([0, 1, 1, 21]).log_scale


def test_the_frame_of_a_loss_leaves_out_a_steep_start_and_says_so():
    falling = [9.0, 6.0, *np.linspace(4, 3, 98)]
    assert chart(falling).frame == pytest.approx((3.0, 4.0), abs=0.05)
    assert chart(falling).above == 9.0
    assert chart(falling, from_zero=True).above is None
    assert chart(falling, yardsticks=(Yardstick("gzip", 9.5),)).above is None
    assert chart([4.0, 3.9, 3.8]).above is None


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0], [-1.0, -1.0], [1e-9, 1e9], [1e300, 2e300]])
def test_odd_values_are_drawn(values):
    drawing = ElementTree.fromstring(chart(values).svg)
    assert drawing.tag == "svg"
    assert drawing.findall(".//path")


def test_a_drawing_is_compact_whatever_the_length_of_the_run():
    rng = np.random.default_rng(0)
    drawing = chart(rng.normal(size=50_000)).svg
    assert len(drawing) < 40 * MAX_POINTS
    # colours are variables
    assert "#" not in drawing.replace('href="#test-', "").replace("url(#test-", "")
    assert "font-family" not in drawing


def test_a_metric_that_was_never_logged_has_no_chart():
    records = [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "train", "step": 2, "loss": None, "mfu": None},
    ]
    (loss,) = run_charts(records, [])
    assert loss.name == "loss"
    assert loss.left_out == 1
