"""The drawing of probes by layer, from plain numbers."""

from drawn_text import texts

from puna.plots.canvas import arm_styles
from puna.plots.layer_chart import LayerChart, LayerSeries


def test_layers_are_drawn_before_and_after_training() -> None:
    series = LayerSeries("block", {"a": [1.0, 2.0], "b": [3.0]}, {"a": [1.0, 400.0], "b": []})
    chart = LayerChart("norms", "Norms", [series], arm_styles("ab", "a"))
    shown = texts(chart.svg)
    assert (
        shown.count("block"),
        shown.count("before training"),
        shown.count("after training"),
    ) == (2, 1, 1)
    assert (
        chart.description
        == "Norms from the first layer to the last; block at the start: a 1 to 2, b 3 to 3; block"
        " at the end: a 1 to 400."
    )
