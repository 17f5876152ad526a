"""The forest plot of a study, from plain numbers."""

from drawn_text import texts

from puna.plots.canvas import frame
from puna.plots.forest_plot import Difference, ForestPlot


def row(
    arm: str = "new", mean: float = -0.1, half: float = 0.05, verdict: str = "better"
) -> Difference:
    return Difference(arm, (mean - 0.01, mean + 0.01), mean, (mean - half, mean + half), verdict)


def forest(rows: list[Difference], **changed: object) -> ForestPlot:
    values = {"noise": 0.01, "smallest_difference": 0.02, "lower_is_better": True} | changed
    return ForestPlot(baseline="old", unit="bits", level="95%", rows=rows, runs=4, **values)  # type: ignore[arg-type]


def test_a_forest_plot_names_every_arm_with_its_numbers() -> None:
    chart = forest(
        [
            row(),
            row("other", 0.2, 0.3, "undecided"),
            Difference("lost", (0.1,), None, None, "diverged", 3),
        ]
    )
    shown = texts(chart.svg)
    for text in (
        "new",
        "-0.1000",
        "-0.1500 to -0.0500",
        "better",
        "other",
        "lost",
        "3 of 4 runs diverged",
        "95% interval",
    ):
        assert text in shown
    assert "lost 3 of 4 runs diverged" in chart.description


def test_a_forest_plot_points_to_the_better_side() -> None:
    assert "← better" in texts(forest([row()]).svg)
    assert "better →" in texts(forest([row()], lower_is_better=False).svg)


def test_an_untested_arm_says_that_the_baseline_diverged() -> None:
    chart = forest(
        [Difference("new", (), None, None, "undecided")], noise=None, smallest_difference=0.0
    )
    assert "not tested: old diverged" in texts(chart.svg)


def test_the_frame_holds_all_but_arms_that_are_far_out() -> None:
    low, high = forest([row(), row("b", 0.08), row("c", 0.02), row("far", 9.0)]).frame
    assert low < -0.15
    assert 0.13 < high < 1
    assert frame([(1.0, 2.0), (1.5, 2.5)], 2.0) == (1.0, 2.5)


def test_no_difference_and_no_noise_are_drawn() -> None:
    nothing = Difference("b", (0.0, 0.0), 0.0, (0.0, 0.0), "undecided")
    assert "+0.0000" in texts(forest([nothing], noise=0.0, smallest_difference=0.0).svg)
