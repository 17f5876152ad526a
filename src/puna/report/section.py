"""The contract of a section in a study's report: what it is made from, what it returns, and the
Markdown of its text.

A section is a function of `StudyResults` that returns a `Section`, or None where the study has
nothing of the kind. It stands in a file of its own and in the list of study_report.py.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from puna.plots.canvas import ArmStyle, arm_styles
from puna.statistics.paired import Analysis, analyse
from puna.study.arms import Arm
from puna.study.baselines import Baselines
from puna.study.definition import Study
from puna.study.results import StudyRuns
from puna.study.run_metrics import METRICS, Metric
from puna.study.step_times import StepTimes
from puna.study.tuning import TunedArm

ALIGNMENTS = {"l": "---", "r": "---:"}

Key = tuple[str, str]
"""The classes of a line, as `canvas.ArmStyle.key` gives them, and what it stands for."""


class Drawing(Protocol):
    """A chart of puna.plots, drawn when the page asks for it."""

    @property
    def svg(self) -> str:
        """An inline `<svg>` element."""
        ...


@dataclass(frozen=True)
class Figure:
    """A drawing with its words, which are plain text."""

    title: str
    unit: str
    drawing: Drawing
    caption: str
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading; title and text are Markdown.

    figures: what the page draws between the heading and the text; REPORT.md leaves them out.
    """

    title: str
    text: str
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class StudyResults:
    """Everything that the sections of a study's report are made from."""

    study: Study
    arms: Mapping[str, Arm]
    runs: StudyRuns
    times: StepTimes | None
    baselines: Baselines | None = None
    tuned: Mapping[str, TunedArm] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """The metric that the study decides by."""
        return METRICS[self.study.metric]

    @cached_property
    def analysis(self) -> Analysis:
        """Every arm against the baseline by that metric."""
        return self.analysis_by(self.study.metric)

    def analysis_by(self, metric: str) -> Analysis:
        """Every arm against the baseline by one metric."""
        return analyse(self.runs.values(metric), self.study.baseline, self.study.rule_for(metric))

    @cached_property
    def styles(self) -> dict[str, ArmStyle]:
        """The style of each arm in every figure."""
        return arm_styles(list(self.study.arms), self.study.baseline)

    def arm_mean(self, arm: str, metric: str) -> str:
        """The mean of an arm's runs as text, or how many of them diverged: a mean over the others
        would be a mean of the lucky.
        """
        values = list(self.runs.values(metric)[arm].values())
        if diverged := self.runs.diverged(arm, metric):
            return f"{diverged} of {len(values)} diverged"
        return f"{sum(values) / len(values):.4f}"


def plain(text: str) -> str:
    """Text in one line that shows as it stands, be it `<b>`, `a|b` or `*`."""
    return re.sub(r"[\\`*\[\]<>|&~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def code(text: str) -> str:
    """Text as code, in a table too."""
    ticks = "``" if "`" in text else "`"
    return ticks + " ".join(text.split()).replace("|", r"\|") + ticks


def table(align: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. align: `l` or `r` for each column. Cells are Markdown."""
    lines = [header, [ALIGNMENTS[side] for side in align], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
