"""Turns the text of a study's report and its drawings into `report.html`: one file, readable
offline, for good.

The text is Markdown; HTML in it is shown and not obeyed, and pictures are not fetched. Each figure
stands at the head of the section that it belongs to. Equal texts and figures give equal pages. It
computes nothing. A tenth of a second, and the size of the drawings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from puna.report.pages import render

Key = tuple[str, str]
"""The classes of a line, as `canvas.Look.key` gives them, and what it stands for."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its words. svg: an inline `<svg>` element."""

    title: str
    unit: str
    svg: str
    caption: str
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page, from one heading to the next; title and text are HTML."""

    title: str
    text: str
    figures: Sequence[Figure]


def study_page(report: str, figures: Mapping[str, Sequence[Figure]], facts: Sequence[str]) -> str:
    """The page. report: Markdown with one title and sections under `##`; figures: by the title of
    their section; facts: under the title.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = markdown.parse(report)
    starts = [
        place
        for place, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag in ("h1", "h2")
    ]
    (title, _), *parts = [
        (tokens[start + 1], tokens[start + 3 : end])
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]
    named = {_text(heading) for heading, _ in parts}
    if unplaced := [section for section in figures if section not in named]:
        raise ValueError(
            f"there is no section {', '.join(unplaced)}, to which figures belong; the sections are"
            f" {', '.join(sorted(named))}"
        )

    def html(some: Sequence[Token]) -> str:
        written: str = markdown.renderer.render(some, markdown.options, {})
        return written.replace("<table>", '<div class="panel scroll"><table>').replace(
            "</table>", "</table></div>"
        )

    sections = [
        Section(html([heading]), html(body), figures.get(_text(heading), ()))
        for heading, body in parts
    ]
    return render(
        "study_page.html", name=_text(title), title=html([title]), sections=sections, facts=facts
    )


def _text(heading: Token) -> str:
    """What is read of a heading, without its markup."""
    return "".join(child.content for child in heading.children or ())
