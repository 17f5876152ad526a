"""Writing a study's report: REPORT.md, the same with figures as report.html, and its table of
differences on the terminal.
"""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from puna.durable import write_text
from puna.findings.costs import read_step_times
from puna.findings.differences import analyse_metric, best_first, level, p_value
from puna.findings.figures import study_figures
from puna.findings.law import law_section
from puna.findings.runs import complete_runs
from puna.findings.write_up import write_up
from puna.report.study_page import study_page
from puna.study.definition import Study, read_study, resolve_arms
from puna.study.metrics import METRICS
from puna.study.results import read_results
from puna.study.statistics import Analysis

TEXT, PAGE = "REPORT.md", "report.html"


def write_report(folder: Path) -> None:
    """Write both from `study.yaml`, `results.jsonl` and `step_times.json`, and print what they come
    to.
    """
    study = read_study(folder)
    runs, times = complete_runs(study, read_results(folder)), read_step_times(folder)
    analysis = analyse_metric(study, runs, study.metric)
    section, law = law_section(runs) if study.fit else ("", None)
    text = write_up(study, resolve_arms(study, folder), runs, times, section)
    facts = (
        f"{len(study.arms)} arms",
        f"{len(study.seeds)} seeds",
        f"{len(runs)} runs",
        f"baseline {study.baseline}",
        study.metric,
    )
    page = study_page(text, study_figures(study, runs, analysis, times, law), facts)
    write_text(folder / TEXT, text)
    write_text(folder / PAGE, page)
    console = Console()
    console.print(_table(study, analysis))
    console.print(f"report  {folder / TEXT}\npage    {folder / PAGE}", highlight=False)


def _table(study: Study, analysis: Analysis) -> Table:
    table = Table(title=escape(study.question), title_justify="left")
    for column in (
        "arm",
        f"difference, {METRICS[study.metric].unit}",
        f"{level(study)} interval",
        "p, Holm",
        "verdict",
    ):
        table.add_column(column)
    for comparison in best_first(analysis):
        test = comparison.test
        numbers = ("", "", "")
        if test is not None:
            low, high = test.confidence_interval
            numbers = (
                f"{test.mean_difference:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                p_value(test.adjusted_p_value),
            )
        table.add_row(escape(comparison.arm), *numbers, comparison.verdict)
    return table
