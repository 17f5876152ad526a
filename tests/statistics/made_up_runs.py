"""Made-up runs for the tests of the statistics, and the bounds of a rate over many of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ARMS = "abcdefgh"


def by_seed(table: NDArray[np.float64] | Sequence[Sequence[float]]) -> dict[str, dict[int, float]]:
    """The rows of a table [arms, seeds] as arms a, b, c, ..."""
    rows = np.asarray(table, dtype=np.float64).tolist()
    return {arm: dict(enumerate(row)) for arm, row in zip(ARMS, rows, strict=False)}


def assert_rate(hits: int, trials: int, expected: float) -> None:
    """The count lies in the interval that holds 99.9% of a binomial one."""
    low, high = stats.binom.interval(0.999, trials, expected)
    assert low <= hits <= high, f"{hits} of {trials}, {expected:.1%} expected: {low} to {high}"
