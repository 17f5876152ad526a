"""The page of a study from a text and drawings, and the drawings from plain numbers."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_page import Page

from puna.report.canvas import arm_looks, frame, shortened, tick
from puna.report.label_places import Box, beside, spread
from puna.report.layer_charts import LayerChart, LayerSeries
from puna.report.scaling_curves import Panel, scaling_svg
from puna.report.study_charts import (
    CostChart,
    CostPoint,
    CurveLine,
    Difference,
    Forest,
    LearningCurves,
)
from puna.report.study_page import Figure, study_page

REPORT = """# Is \\<b\\> better?

## Differences

| arm | value |
| --- | ---: |
| \\<script\\> | 1 |

Raw <script>alert(1)</script> and ![a picture](http://example.org/x.png).

## Cost & more

Text.
"""


def texts(svg: str) -> list[str]:
    return [piece.strip() for piece in ElementTree.fromstring(svg).itertext() if piece.strip()]


def drawn(label: str = "a") -> Figure:
    return Figure(
        "Title",
        "unit",
        f"<svg role='img' aria-label='{label}'></svg>",
        "words",
        [("arm-1 dashed", "<i>")],
    )


# the page


def test_the_text_is_rendered_and_html_in_it_is_shown() -> None:
    page = Page(study_page(REPORT, {}, ["3 <arms>"]))
    assert {tag for tag, _ in page.tags} >= {"h1", "h2", "table", "td", "main"}
    assert not {tag for tag, _ in page.tags} & {"script", "img", "b", "link", "iframe"}
    assert "Is <b> better?" in page.text
    assert "Raw <script>alert(1)</script>" in page.text
    assert "3 <arms>" in page.text
    assert ("td", {"style": "text-align:right"}) in page.tags


def test_figures_stand_between_the_heading_of_their_section_and_its_text() -> None:
    page = study_page(REPORT, {"Cost & more": [drawn("one"), drawn("two")]}, [])
    places = [page.index(part) for part in ("Cost &amp; more</h2>", "'one'", "'two'", "<p>Text.")]
    assert places == sorted(places)
    assert '<span class="key arm-1 dashed">&lt;i&gt;</span>' in page


def test_figures_of_a_section_that_is_not_there_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=(
            "no section Costs, to which figures belong; the sections are Cost & more, Differences"
        ),
    ):
        study_page(REPORT, {"Costs": [drawn()]}, [])


def test_the_page_forbids_itself_the_network_and_knows_all_its_colours() -> None:
    page = study_page(REPORT, {"Differences": [Figure("", "", forest([row()]).svg, "")]}, [])
    policies = [
        attributes["content"]
        for tag, attributes in Page(page).tags
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    for variable in set(re.findall(r"var\((--[\w-]+)\)", page)):
        assert page.count(f"{variable}: #") == 3, variable  # light, dark and print


# the forest plot


def row(
    arm: str = "new", mean: float = -0.1, half: float = 0.05, verdict: str = "better"
) -> Difference:
    return Difference(arm, (mean - 0.01, mean + 0.01), mean, (mean - half, mean + half), verdict)


def forest(rows: list[Difference], **changed: object) -> Forest:
    values = {"noise": 0.01, "smallest_difference": 0.02, "lower_is_better": True} | changed
    return Forest(baseline="old", unit="bits", level="95%", rows=rows, runs=4, **values)  # type: ignore[arg-type]


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


# learning curves


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
    chart = LearningCurves("bits", lines, arm_looks(["a", "b", "cut", "gone"], "a"))
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
        " ".join(texts(LearningCurves("bits", same, arm_looks("ab", "a")).svg)).split()
    )
    nothing = Difference("b", (0.0, 0.0), 0.0, (0.0, 0.0), "undecided")
    assert "+0.0000" in texts(forest([nothing], noise=0.0, smallest_difference=0.0).svg)


# cost


def test_every_arm_is_a_labelled_point_and_diverged_ones_are_marked() -> None:
    points = [
        CostPoint("a", 1.0, (0.9, 1.1), (2.0, 2.1)),
        CostPoint("b", 1.0, (1.0, 1.0), (2.05, 2.06)),
        CostPoint("c", 1.2, (1.2, 1.2), (), 4),
    ]
    chart = CostChart("ms", "bits", True, points, arm_looks("abc", "a"))
    assert {"a", "b", "c diverged"} <= set(texts(chart.svg))
    assert chart.description == "bits against ms: a 1, 2.0500; b 1, 2.0550; c 1.2, diverged."


def test_a_chart_of_nothing_but_divergence_is_still_drawn() -> None:
    points = [CostPoint(arm, 1.0, (1.0, 1.0), (), 4) for arm in "ab"]
    assert {"a diverged", "b diverged"} <= set(
        texts(CostChart("ms", "bits", False, points, arm_looks("ab", "a")).svg)
    )


# layers and laws


def test_layers_are_drawn_before_and_after_training() -> None:
    series = LayerSeries("block", {"a": [1.0, 2.0], "b": [3.0]}, {"a": [1.0, 400.0], "b": []})
    chart = LayerChart("norms", "Norms", [series], arm_looks("ab", "a"))
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


def test_curves_of_a_law_carry_the_runs_as_points() -> None:
    numbers = np.geomspace(1e5, 1e7, 9)
    panel = Panel(
        "Equal loss",
        "tokens",
        [("loss 3.00", numbers, 1e12 / numbers, (1e6, 1e6))],
        [("small $x$", 2e5, 1e6)],
    )
    svg = scaling_svg([panel], "law", "a law")
    assert {"Equal loss", "loss 3.00", "small $x$"} <= set(texts(svg))
    assert "var(--arm-1)" not in svg  # one curve, in the quiet colour
    assert svg == scaling_svg([panel], "law", "a law")


# looks and labels


def test_arms_look_different_from_each_other() -> None:
    arms = [f"arm {number}" for number in range(25)]
    looks = arm_looks(arms, "arm 3")
    assert list(looks) == arms
    assert len({look.key for look in looks.values()}) == 25
    assert looks["arm 3"].key == "ink"


def test_long_names_lose_their_middle_and_ticks_no_digit() -> None:
    assert shortened("one\ntwo") == "one two"
    assert shortened("a" * 30 + "b" * 30) == "a" * 16 + "…" + "b" * 17
    assert [tick(value) for value in (2.925, -0.025, 0.1 + 0.2, 25_000, 1e-5)] == [
        "2.925",
        "-0.025",
        "0.3",
        "25k",
        "1e-5",
    ]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_spread_labels_keep_their_order_their_distance_and_the_room(wanted: list[float]) -> None:
    places = spread(wanted, 5.0, 0.0, 100.0)
    order = np.argsort(wanted, kind="stable")
    gaps = np.diff(np.array(places)[order])
    assert (gaps > 5.0 - 1e-6).all()
    assert min(places) > -1e-6
    assert max(places) < 100 + 1e-6


def test_labels_that_have_room_stay_where_they_belong() -> None:
    assert spread([50.0, 10.0], 5.0, 0.0, 100.0) == [50.0, 10.0]
    assert spread([10.0, 10.0], 4.0, 0.0, 100.0) == [8.0, 12.0]
    assert spread([1.0, 1.0], 4.0, 0.0, 100.0) == [0.0, 4.0]


def test_labels_of_close_points_do_not_lie_on_each_other() -> None:
    points = [
        (100.0 + 3 * math.sin(5 * place), 100.0 + 4 * math.cos(3 * place)) for place in range(8)
    ]
    places = beside(points, [60.0] * 8, 15.0, Box(0, 0, 300, 300))
    boxes = [
        Box(x if right else x - 60, y - 7.5, x + 60 if right else x, y + 7.5)
        for x, y, right in places
    ]
    assert not any(
        one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place]
    )
    assert beside([(290.0, 50.0)], [60.0], 15.0, Box(0, 0, 300, 300)) == [(280.0, 50.0, False)]
