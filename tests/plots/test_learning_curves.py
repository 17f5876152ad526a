"""The learning curves of a study, from plain numbers."""

import numpy as np
import pytest
from drawn_text import texts

from puna.plots.canvas import arm_styles
from puna.plots.learning_curves import CurveLine, LearningCurves


def line(arm: str, end: float, points: int = 8, **changed: object) -> CurveLine:
    mean = end + 2.0 / np.arange(1, points + 1) - 2.0 / max(points, 1)
    return CurveLine(arm, np.arange(1.0, points + 1), mean, mean - 0.01, mean + 0.01, **changed)  # type: ignore[arg-type]


def test_learning_curves_label_every_line_with_its_end_and_diverged_ones_as_such() -> None:
    lines = [
        line("a", 2.5),
        line("b", 2.4),
        line("cut", 2.6, 3, diverged=1),
        line("gone", 0, 0, diverged=4),
    ]
    chart = LearningCurves("bits", lines, arm_styles(["a", "b", "cut", "gone"], "a"))
    assert {"2.500 a", "2.400 b", "diverged cut", "diverged gone"} <= {
        " ".join(text.split()) for text in texts(chart.svg)
    }
    assert "gone diverged at once" in chart.description
    low, top, highest = chart.frame
    assert low == pytest.approx(2.39)
    assert 2.5 < top < highest
    assert highest == pytest.approx(2.5 + 2 - 0.25 + 0.01)


def test_one_look_that_is_the_same_for_all_is_drawn() -> None:
    same = [
        CurveLine(arm, np.array([5.0]), np.array([3.0]), np.array([3.0]), np.array([3.0]))
        for arm in "ab"
    ]
    assert "3.000 a" in " ".join(
        " ".join(texts(LearningCurves("bits", same, arm_styles("ab", "a")).svg)).split()
    )
