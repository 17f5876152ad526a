"""The result of one task: its metrics with their doubt, and how they came about.

Not here: what an answer is worth; that is in `judges.py` and `multiple_choice.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from puna.eval.judges import Values
from puna.statistics.document_bootstrap import bootstrap_ratio
from puna.statistics.proportions import wilson_share

INTERVAL = (
    "95% percentile intervals of a bootstrap over documents (Wilson's where all or none are"
    " right; ±: the harness's standard error)"
)


@dataclass(frozen=True)
class Estimate:
    """A metric over n documents. stderr: its standard error; low, high: of its interval. None of
    them where there are fewer than two documents, or where the harness alone knows the metric.
    """

    value: float
    n: int
    stderr: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float | tuple[float, float]]) -> Self:
        """The mean of numbers, or the bits per byte of pairs of log-likelihood and bytes, with
        their bootstrap.
        """
        rows = np.array(
            [
                (-value[0] / math.log(2), value[1]) if isinstance(value, tuple) else (value, 1.0)
                for value in values
            ],
            dtype=np.float64,
        )
        if len(rows) < 2:
            return cls(float(rows[0, 0] / rows[0, 1]), 1)
        found = bootstrap_ratio(rows[:, 0], rows[:, 1])
        right = int(rows[:, 0].sum())
        is_share = set(rows[:, 0]) <= {0.0, 1.0} and bool(np.all(rows[:, 1] == 1.0))
        # a bootstrap of documents that are all alike has no width
        alike = is_share and right in (0, len(rows))
        interval = wilson_share(right, len(rows)).confidence_interval if alike else found.interval
        return cls(found.estimate, len(rows), found.stderr, *interval)


class Answers(NamedTuple):
    """The values of the metrics for each document. cut: prompts whose front was left out, because
    the model's context does not hold them.
    """

    values: list[Values]
    cut: int


@dataclass(frozen=True)
class TaskResult:
    """The metrics of a task by name. version, seed: of the task, where it has them. cut: prompts
    whose front was left out; None where the harness asked, which counts them for all tasks.
    """

    task: str
    metrics: Mapping[str, Estimate]
    version: str | None = None
    seed: int | None = None
    cut: int | None = None


def estimates(values: Iterable[Values]) -> dict[str, Estimate]:
    """The metrics of a task from those of its documents, in the order of their names' first use."""
    columns: dict[str, list[float | tuple[float, float]]] = {}
    for of_document in values:
        for metric, value in of_document.items():
            columns.setdefault(metric, []).append(value)
    return {metric: Estimate.of(column) for metric, column in columns.items()}
