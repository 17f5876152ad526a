"""A study's report: REPORT.md, and the same as a page with figures, `report.html`.

Both are made from the same sections, in the order of `report_sections`: REPORT.md joins their
texts, the page renders each text under its figures. Both are a pure function of what `study.yaml`,
`results.jsonl` and `step_times.json` hold, so they can be made again, byte for byte, from what is
committed. The page is one file, readable offline, for good; HTML in a text is shown and not obeyed,
and pictures are not fetched. A tenth of a second, and the time of the drawings.
"""

from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from puna.durable import write_text
from puna.errors import DataError
from puna.report.conclusion import conclusion, own_limits, shared_limits
from puna.report.contrast_table import contrasts
from puna.report.costs import costs
from puna.report.differences import differences, other_measures
from puna.report.equivalence_table import equivalence
from puna.report.inside_models import inside_models
from puna.report.levels import levels
from puna.report.outcomes import outcomes
from puna.report.pages import render
from puna.report.published import published
from puna.report.scaling_law import scaling_law
from puna.report.section import Section, StudyResults, plain
from puna.report.study_protocol import protocol
from puna.report.times_to_level import times_to_level
from puna.report.tuned_arms import tuning
from puna.report.two_way_table import two_way
from puna.study.arms import resolve_arms
from puna.study.baselines import FILE as BASELINES
from puna.study.baselines import Baselines, read_baselines
from puna.study.definition import Study, read_study
from puna.study.results import StudyRuns, complete_runs, read_results
from puna.study.step_times import read_step_times
from puna.study.tuning import further_overrides, tuned_arms

TEXT, PAGE = "REPORT.md", "report.html"


def report_sections(results: StudyResults) -> list[Section]:
    """The sections of a report, in reading order; a new one is a line here."""
    sections = [
        own_limits(results),
        protocol(results),
        levels(results),
        contrasts(results),
        outcomes(results),
        times_to_level(results),
        differences(results),
        two_way(results),
        equivalence(results),
        other_measures(results),
        tuning(results),
        costs(results),
        inside_models(results),
        scaling_law(results),
        *(published(results, theirs) for theirs in results.study.published),
        shared_limits(results),
        conclusion(results),
    ]
    return [section for section in sections if section]


def write_study_report(folder: Path) -> StudyResults:
    """Write REPORT.md and report.html of the study in `folder`, and return what they are made from.

    Raises ConfigError where a run or a metric is missing, DataError for a damaged file; then
    nothing is written.
    """
    study = read_study(folder)
    runs, times = complete_runs(study, read_results(folder)), read_step_times(folder)
    arms = resolve_arms(study, folder, further_overrides(study, folder, runs.stage))
    baselines = read_baselines(folder)
    if baselines is not None:
        _reject_another_text(baselines, runs, folder)
    results = StudyResults(study, arms, runs, times, baselines, tuned_arms(study, folder) or {})
    sections = report_sections(results)
    page = report_page(study, sections)
    write_text(folder / TEXT, report_text(study, sections))
    write_text(folder / PAGE, page)
    return results


def _reject_another_text(baselines: Baselines, runs: StudyRuns, folder: Path) -> None:
    """Raise DataError where the baselines are of another text than the runs were scored on."""
    others = {run["text_hash"] for run in runs} - {baselines.text_hash}
    if others:
        raise DataError(
            f"{folder / BASELINES} is of the text {baselines.text_hash}, but runs were scored on"
            f" {', '.join(sorted(others))}: delete the file, and measure it on the text of the runs"
            " with puna study baselines"
        )


def report_text(study: Study, sections: Sequence[Section]) -> str:
    """The text of REPORT.md."""
    parts = [f"## {section.title}\n\n{section.text}" for section in sections]
    return "\n\n".join([f"# {plain(study.question)}", *parts]) + "\n"


def report_page(study: Study, sections: Sequence[Section]) -> str:
    """The text of report.html. Equal sections give equal pages."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    facts = (
        f"{len(study.arms)} arms",
        f"{len(study.seeds)} seeds",
        f"{len(study.arms) * len(study.seeds)} runs",
        f"baseline {study.baseline}",
        study.metric,
    )
    return render(
        "study_report.html",
        name=" ".join(study.question.split()),
        title=markdown.renderInline(plain(study.question)),
        facts=facts,
        sections=[
            (markdown.renderInline(section.title), section.figures, _body(markdown, section.text))
            for section in sections
        ],
    )


def _body(markdown: MarkdownIt, text: str) -> str:
    """The text as HTML; each table stands in a panel that scrolls sideways."""
    html: str = markdown.render(text)
    return html.replace("<table>", '<div class="panel scroll"><table>').replace(
        "</table>", "</table></div>"
    )
