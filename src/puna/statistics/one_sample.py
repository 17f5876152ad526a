"""Student's one-sample t test of many samples at once: of paired differences, or of the values of a
contrast, one a seed.

Not here: the families that p-values are adjusted in. The test is scipy's; of samples without a
spread, such as shares of runs that are the same for every seed, it is the exact sign test.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeanTests:
    """Of every sample, arrays of the leading shape of the samples."""

    mean: Array
    standard_deviation: Array  # divisor n - 1
    low: Array
    high: Array
    p_value: Array


def mean_tests(samples: Array, alpha: float) -> MeanTests:
    """The two-sided tests that the means of samples [..., n] are 0, n >= 2, in float64, with
    intervals of the level 1 - alpha.

    With mean m and standard deviation s, SE = s / sqrt(n): the interval is
    m +- t_(1 - alpha/2, n-1) SE and p = 2 P(T_(n-1) > |m| / SE). Where all values of a sample are
    the same, t has nothing to go by: the interval is the one value, and p is the sign test's,
    2^(1-n), or 1 if they are 0. A sample that holds nan has nan throughout.
    """
    mean, spread = samples.mean(axis=-1), samples.std(axis=-1, ddof=1)
    with warnings.catch_warnings():
        # values that are equal but for rounding: scipy warns that their spread is noise
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        found = stats.ttest_1samp(samples, 0.0, axis=-1)
    bounds = found.confidence_interval(1 - alpha)
    same = np.ptp(samples, axis=-1) == 0
    return MeanTests(
        mean,
        spread,
        np.where(same, mean, bounds.low),
        np.where(same, mean, bounds.high),
        np.where(same, np.where(mean == 0, 1.0, 2.0 ** (1 - samples.shape[-1])), found.pvalue),
    )
