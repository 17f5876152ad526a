"""The learning curve of an arm: its runs' looks at held-out text during training, put together."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from puna.findings.runs import StudyRuns

Values = NDArray[np.float64]


class LearningCurve(NamedTuple):
    """Bits per byte over tokens: the mean over the seeds, and the lowest and the highest of them.

    It ends with the last look that every run of the arm has, so where one diverged it ends early.
    `short` says how many did not get as far as the longest, or ended without a result.
    """

    tokens: Values
    mean: Values
    low: Values
    high: Values
    short: int


def learning_curve(runs: StudyRuns, arm: str) -> LearningCurve:
    """Of one arm; of length 0 where a run has no look at all."""
    looks = [
        {tokens: bits for tokens, bits in run["curve"] if bits is not None}
        for run in runs.by_arm[arm]
    ]
    longest = max(map(len, looks))
    short = sum(
        len(look) < longest or bool(run["diverged"])
        for look, run in zip(looks, runs.by_arm[arm], strict=True)
    )
    shared = sorted(set.intersection(*map(set, looks)))
    values = np.array([[look[tokens] for tokens in shared] for look in looks], dtype=np.float64)
    return LearningCurve(
        np.array(shared, dtype=np.float64), values.mean(0), values.min(0), values.max(0), short
    )
