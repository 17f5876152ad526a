"""The questions of a study, as `study.yaml` puts them before the runs: the rule, contrasts,
outcomes and times; and the figures of others beside its own.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from puna.config import Config


class Rule(Config):
    """The rule by which an arm counts as different, written before the run; see
    `puna.statistics.paired.DecisionRule`.
    """

    alpha: float = Field(
        default=0.05, gt=0, lt=1, description="chance of even one false verdict in the study"
    )
    smallest_difference: float = Field(
        default=0.0, ge=0, description="in the unit of the metric; less is no difference"
    )
    equivalence_margin: float | None = Field(
        default=None,
        gt=0,
        description="two one-sided tests ask if an arm is within it; in the unit of the metric",
    )


class ContrastDefinition(Config):
    """A comparison of groups of arms, named before the run.

    terms: weights by the names of arms, or `|` between several, or patterns such as `post *`; each
    term is the mean of its arms, or at each seed the best of them. Weights sum to 0.
    """

    meaning: str = Field(default="", description="for the report's reader")
    terms: dict[str, float]
    pick: Literal["mean", "best"] = "mean"
    of: str | None = Field(
        default=None, description="a metric or an outcome; left out, the study's metric"
    )
    primary: bool = Field(
        default=False, description="what the study is about: tested by itself, without adjustment"
    )

    def groups(self, arms: Sequence[str]) -> list[tuple[float, tuple[str, ...]]]:
        """Weight and arms of each term, in the study's order."""
        return [
            (weight, tuple(arm for arm in arms if _matches(arm, pattern)))
            for pattern, weight in self.terms.items()
        ]


class Outcome(Config):
    """A yes or no of each run: its metric is above a level; a run that diverged has the worse of
    the two. For runs that end in one of two ways, of which a mean says nothing.
    """

    meaning: str = ""
    metric: str
    above: float


class TimeTo(Config):
    """The share of its training that a run takes until its metric reaches a level, seen at the
    looks.
    """

    metric: str
    level: float


class Published(Config):
    """Figures of others to print beside ours."""

    source: str
    column: str = Field(description="what the figures are, with their unit")
    beside: Literal["metric", "step_times"] = Field(
        default="metric", description="which of our figures they stand beside"
    )
    lower_is_better: bool = True
    values: dict[str, float] = Field(description="by arm")


def _matches(arm: str, patterns: str) -> bool:
    return any(fnmatchcase(arm, pattern.strip()) for pattern in patterns.split("|"))
