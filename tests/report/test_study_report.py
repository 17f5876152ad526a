"""The report of a study: the page from sections, and whole studies that were made up, from their
files to REPORT.md and report.html.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from made_up_study import make_study
from read_page import Page

from puna.plots.forest_plot import Difference, ForestPlot
from puna.report import scaling_law
from puna.report.section import Figure, Section, plain
from puna.report.study_report import report_page, report_text, write_study_report
from puna.study.definition import Study

GLU = ["relu", "relu2", "gelu", "swish", "glu", "bilinear", "reglu", "geglu", "swiglu"]
PLACEMENT = [
    f"{placement} {rate} {warm}"
    for placement in ("pre", "post", "peri")
    for rate in ("5e-4", "2e-3", "8e-3")
    for warm in ("warm", "cold")
]
SIZES = {48: 150_000, 64: 300_000, 128: 1_200_000}
GRID = {
    f"{width} wide, {flops:.1e}": (size, int(flops / 6 / size))
    for flops in (1.5e11, 4.5e11, 1.4e12)
    for width, size in SIZES.items()
}


TEXT = """| arm | value |
| --- | ---: |
| \\<script\\> | 1 |

Raw <script>alert(1)</script> and ![a picture](http://example.org/x.png)."""
SECTIONS = [Section("Differences", TEXT), Section("Cost & more", "Text.")]


@dataclass(frozen=True)
class Drawn:
    """A drawing that only names itself."""

    label: str

    @property
    def svg(self) -> str:
        return f"<svg role='img' aria-label='{self.label}'></svg>"


def study() -> Study:
    return Study(
        question="Is <b> better?",
        base="recipe.yaml",
        baseline="<arms>",
        arms={"<arms>": (), "b": ()},
        seeds=(0, 1),
    )


class Report(NamedTuple):
    text: str
    html: str
    page: Page


def report(folder: Path) -> Report:
    write_study_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    return Report((folder / "REPORT.md").read_text(encoding="utf-8"), html, Page(html))


def assert_shown(arms: list[str], page: Page, drawings: dict[int, list[str]] | None = None) -> None:
    """Every arm is in what every drawing says, and the baseline too but in the differences; nothing
    is outside.
    """
    for index, label in enumerate(page.labels):
        wanted = (drawings or {}).get(index, arms[1:] if index == 0 else arms)
        assert [arm for arm in wanted if arm not in label] == [], label
    targets = [
        attributes[key]
        for _, attributes in page.tags
        for key in ("src", "href")
        if key in attributes
    ]
    assert all((target or "").startswith("#") for target in targets)


# the page from sections


def test_the_text_is_the_sections_joined() -> None:
    sections = [Section("One", "First."), Section(plain("A|B"), "Second.\n\nThird.")]
    assert report_text(study(), sections) == (
        "# Is \\<b\\> better?\n\n## One\n\nFirst.\n\n## A\\|B\n\nSecond.\n\nThird.\n"
    )


def test_the_text_is_rendered_and_html_in_it_is_shown() -> None:
    page = Page(report_page(study(), SECTIONS))
    assert {tag for tag, _ in page.tags} >= {"h1", "h2", "table", "td", "main"}
    assert not {tag for tag, _ in page.tags} & {"script", "img", "b", "link", "iframe", "arms"}
    assert "Is <b> better?" in page.text
    assert "Raw <script>alert(1)</script>" in page.text
    assert "baseline <arms>" in page.text
    assert ("td", {"style": "text-align:right"}) in page.tags


def test_figures_stand_between_the_heading_of_their_section_and_its_text() -> None:
    figures = [
        Figure("Title", "unit", Drawn(label), "words", [("arm-1 dashed", "<i>")])
        for label in ("one", "two")
    ]
    page = report_page(study(), [SECTIONS[0], Section("Cost & more", "Text.", figures)])
    positions = [
        page.index(part) for part in ("Cost &amp; more</h2>", "'one'", "'two'", "<p>Text.")
    ]
    assert positions == sorted(positions)
    assert '<span class="key arm-1 dashed">&lt;i&gt;</span>' in page


def test_figures_are_drawn_for_the_page_alone_and_never_stand_in_the_text() -> None:
    section = Section("Cost", "Text.", [Figure("Title", "unit", Drawn("one"), "words")])
    assert report_text(study(), [section]).endswith("## Cost\n\nText.\n")


def test_the_page_forbids_itself_the_network_and_knows_all_its_colours() -> None:
    row = Difference("new", (-0.11, -0.09), -0.1, (-0.15, -0.05), "better")
    plot = ForestPlot("old", "bits", "95%", True, [row], 0.01, 0.02, 4)
    page = report_page(study(), [Section("Differences", "Text.", [Figure("", "", plot, "")])])
    policies = [
        attributes["content"]
        for tag, attributes in Page(page).tags
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    for variable in set(re.findall(r"var\((--[\w-]+)\)", page)):
        assert page.count(f"{variable}: #") == 3, variable  # light, dark and print


# whole studies


def test_nine_arms_are_in_every_figure(tmp_path: Path) -> None:
    made = report(
        make_study(
            tmp_path,
            GLU,
            probes=["dead_units"],
            also=["loss"],
            rule={"smallest_difference": 0.01},
            limits="Not *that*.",
            conclusion="Found *it*.",
        )
    )
    assert len(made.page.drawings) == 4
    assert_shown(GLU, made.page)
    for arm in GLU:
        assert all(any(arm in piece for piece in drawing) for drawing in made.page.drawings[1:3])
        assert re.search(rf'<span class="key [^"]+">{arm}</span>', made.html)
    assert "://" not in made.html
    assert "<em>it</em>" in made.html
    assert "<em>that</em>" in made.html
    assert made.text.startswith(
        "# Does it matter?\n\n## Limits of this study\n\nNot *that*.\n\n## Protocol\n"
    )
    headings = [line for line in made.text.splitlines() if line.startswith("## ")]
    assert [heading[3:] for heading in headings] == [
        *(
            "Limits of this study",
            "Protocol",
            "Differences",
            "All arms together",
            "Other measures",
            "Cost",
            "Inside the models",
            "What this cannot show",
            "What was found",
        )
    ]
    assert "Dashed: ±0.01" in made.page.text


def test_eighteen_arms_keep_their_labels_apart(tmp_path: Path) -> None:
    diverged = {"post 8e-3 cold": [0, 2], "post 8e-3 warm": [0, 1, 2, 3]}
    made = report(make_study(tmp_path, PLACEMENT, diverged=diverged))
    assert_shown(PLACEMENT, made.page)
    assert "4 of 4 runs diverged" in made.page.drawings[0]
    assert "diverged" in " ".join(made.page.drawings[1])
    assert "post 8e-3 warm diverged" in made.page.drawings[2]
    for drawing in re.findall(r"<svg.*?</svg>", made.html, re.DOTALL)[1:2]:
        labels = re.findall(
            r'<text[^>]*transform="translate\(([\d.]+) ([\d.]+)\)', drawing
        ) or re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"', drawing)
        column = sorted(float(y) for x, y in labels if float(x) > 700)
        assert len(column) >= len(PLACEMENT)
        assert min(second - first for first, second in pairwise(column)) > 12


def test_a_diverged_baseline_still_has_a_page(tmp_path: Path) -> None:
    made = report(make_study(tmp_path, ["a", "b", "c"], diverged={"a": [1]}))
    assert made.page.drawings[0].count("not tested: a diverged") == 2
    assert "nothing to pair with" in made.page.text
    assert_shown(["arm a", "arm b"], made.page, {index: [] for index in range(3)})


def test_without_step_times_and_where_more_is_better_flops_are_the_cost(tmp_path: Path) -> None:
    arms = ["one", "three", "off"]
    made = report(
        make_study(
            tmp_path,
            arms,
            metric="addition_exact_match",
            truth=lambda arm, seed: 0.2 + 0.1 * arm + 0.01 * arm * seed,
            timed=[],
        )
    )
    assert_shown(arms, made.page)
    assert made.page.labels[2].startswith("share right against training FLOPs a token")
    assert "better →" in made.page.drawings[0]
    assert "higher and further left is better" in made.page.text


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    arms = ["<script>", "a|b", "$x$ *y*", "&amp;"]
    made = report(make_study(tmp_path, arms, probes=["dead_units"]))
    assert_shown(arms, made.page)
    assert not {tag for tag, _ in made.page.tags} & {"script", "em"}
    assert "<script>" not in made.html
    assert {"a|b", "$x$ *y*", "&amp;"} <= set(made.page.drawings[0])
    for arm in arms:
        assert f" {arm} " in made.page.text


def test_a_grid_gets_its_law_and_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The made-up truth is E = 1.5, A = 300, B = 400, alpha = 0.45 and beta = 0.4, with noise of
    0.004 nats.
    """
    monkeypatch.setattr(scaling_law, "RESAMPLES", 12)
    made = report(
        make_study(
            tmp_path,
            list(GRID),
            grid=list(GRID.values()),
            fit=True,
            timed=[],
            diverged={next(iter(GRID)): [2]},
        )
    )
    section = made.text.split("## Scaling law")[1].split("\n## ")[0]
    constants = {
        name: float(value)
        for name, value in re.findall(
            r"^\| (\w+) \| ([\d.,]+) \|", section.replace(",", ""), re.MULTILINE
        )
    }
    truth = {"E": 1.5, "A": 300, "B": 400, "alpha": 0.45, "beta": 0.4}
    for name, value in truth.items():
        assert constants[name] == pytest.approx(value, rel=0.2), name
    assert "fitted to 35 runs of 150,000 to 1.2M parameters" in section
    assert "1 runs diverged and are left out" in section
    assert "12 bootstrap samples of the runs (seed 0)" in section
    assert section.count("| lifetime optimum |") == 3
    assert_shown(list(GRID), made.page, {0: []})
    assert set(GRID) <= set(made.page.drawings[-1])
    assert "tokens, log scale" in made.page.drawings[1]


def test_a_grid_that_fixes_no_law_says_why(tmp_path: Path) -> None:
    made = report(make_study(tmp_path, ["a", "b"], fit=True))
    assert "No law was fitted: 8 runs with 2 different numbers of parameters" in made.text
    assert len(made.page.drawings) == 3
