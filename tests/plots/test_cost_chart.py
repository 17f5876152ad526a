"""The chart of cost against quality, from plain numbers."""

from drawn_text import texts

from puna.plots.canvas import arm_styles
from puna.plots.cost_chart import CostChart, CostPoint


def test_every_arm_is_a_labelled_point_and_diverged_ones_are_marked() -> None:
    points = [
        CostPoint("a", 1.0, (0.9, 1.1), (2.0, 2.1)),
        CostPoint("b", 1.0, (1.0, 1.0), (2.05, 2.06)),
        CostPoint("c", 1.2, (1.2, 1.2), (), 4),
    ]
    chart = CostChart("ms", "bits", True, points, arm_styles("abc", "a"))
    assert {"a", "b", "c diverged"} <= set(texts(chart.svg))
    assert chart.description == "bits against ms: a 1, 2.0500; b 1, 2.0550; c 1.2, diverged."


def test_a_chart_of_nothing_but_divergence_is_still_drawn() -> None:
    points = [CostPoint(arm, 1.0, (1.0, 1.0), (), 4) for arm in "ab"]
    assert {"a diverged", "b diverged"} <= set(
        texts(CostChart("ms", "bits", False, points, arm_styles("ab", "a")).svg)
    )
