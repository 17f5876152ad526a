"""A chart over steps: its axes, its frame and its size."""

from xml.etree import ElementTree

import numpy as np
import pytest

from puna.plots.series import Series
from puna.plots.step_chart import MAX_POINTS, Chart, Line, ReferenceLine


def series(values) -> Series:
    return Series(np.arange(1.0, len(values) + 1), np.array(values, dtype=np.float64))


def chart(values, **changed) -> Chart:
    return Chart("test", "Test", "units", (Line("training", series(values), "train"),), **changed)


def test_a_spike_asks_for_a_log_scale_unless_a_value_is_zero():
    assert not chart([1, 2, 3]).log_scale
    assert chart([1, 1, 1, 21]).log_scale
    assert not chart([0, 1, 1, 21]).log_scale


def test_the_frame_of_a_loss_leaves_out_a_steep_start_and_says_so():
    falling = [9.0, 6.0, *np.linspace(4, 3, 98)]
    assert chart(falling).frame == pytest.approx((3.0, 4.0), abs=0.05)
    assert chart(falling).above == 9.0
    assert chart(falling, from_zero=True).above is None
    assert chart(falling, references=(ReferenceLine("gzip", 9.5),)).above is None
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
