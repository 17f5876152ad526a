"""A second interval of a contrast, over the documents that it is measured on as well as over runs.

Not here: verdicts. The tests of a study (paired.py, contrasts.py) take the validation text as it
is and ask what other seeds would give; of other text they say nothing. Where a few long documents
make up the text, that is the larger doubt.

The statistic is the contrast of bits per byte: for every arm and seed the sum of the bits of all
documents over the sum of their bytes, put together at each seed and averaged over the seeds.
Runs and documents are crossed, every run having read every document, so both are drawn with
replacement, each by itself: Owen's pigeonhole bootstrap. An arm's runs keep their seeds and all
arms share the documents drawn, so that what a seed or a document does to all arms drops out here
too. Two further intervals hold one of the two fixed, and show which source dominates.

It is conservative: with effects of runs, of documents, and of both together, of variances r, d and
e, its variance for n runs and m documents is about r/n + d/m + 3e/(nm), where the true one ends in
e/(nm). On the other side a percentile interval over few runs is short, as it has neither Student's
t nor the n - 1: with 4 normal runs and no doubt about documents, 95% cover 80%. Where runs
dominate, the t interval of the contrast is the one to read. A term that picks the best picks anew
in every draw, and the best of noisier values is better: such an interval is shifted, not only wide.

Source: Owen 2007, The Pigeonhole Bootstrap; Efron and Tibshirani 1993, An Introduction to the
Bootstrap, chapter 13. Usual mistake: drawing tokens or windows instead of documents, as if the text
of one document were independent, which makes the interval far too short.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, check_contrasts

DRAWS = 10_000
Array = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class DocumentBootstrap:
    """A contrast in bits per byte, and percentile intervals over runs and documents, over documents
    with the runs as they are, and over runs with the documents as they are.
    """

    estimate: float
    runs_and_documents: Interval
    documents: Interval
    runs: Interval


def bootstrap_contrast(
    bits: Mapping[str, Array],
    sizes: Array,
    contrast: Contrast,
    alpha: float,
    *,
    lower_is_better: bool = True,
) -> DocumentBootstrap | None:
    """The bootstrap of a contrast by `DRAWS` draws, the same at every call, with intervals of the
    level 1 - alpha. None where a seed has no value of the contrast because runs diverged.

    bits: loss in bits by arm, [seeds, documents], seeds and documents in one order for all arms,
    nan for a run that diverged; sizes: bytes, [documents]. Float64; about 0.1 s for 8 arms, 8 seeds
    and 100 documents. Raises ConfigError for an arm that does not exist, arrays that do not fit
    together, documents without bytes, and fewer than 2 seeds or documents.
    """
    check_contrasts([contrast], tuple(bits), None)
    _check_shapes(bits, sizes)
    totals = {arm: of_arm.sum(axis=1) / sizes.sum() for arm, of_arm in bits.items()}
    by_seed = contrast.evaluate(totals, lower_is_better=lower_is_better)  # [seeds]
    if np.isnan(by_seed).any():
        return None
    rng = np.random.default_rng(0)
    # times that each seed and document is drawn: [draws, seeds], [draws, documents]
    seeds, documents = (_counts(rng, number) for number in (len(by_seed), len(sizes)))
    drawn_bytes = documents @ sizes
    levels = {arm: bits[arm] @ documents.T / drawn_bytes for arm in contrast.arms}
    values = contrast.evaluate(levels, lower_is_better=lower_is_better).T  # [draws, seeds]

    def interval(draws: Array) -> Interval:
        low, high = np.quantile(draws, [alpha / 2, 1 - alpha / 2])
        return float(low), float(high)

    return DocumentBootstrap(
        float(by_seed.mean()),
        interval((seeds * values).sum(axis=1) / len(by_seed)),
        interval(values.mean(axis=1)),
        interval(seeds @ by_seed / len(by_seed)),
    )


def _counts(rng: np.random.Generator, number: int) -> Array:
    return rng.multinomial(number, np.full(number, 1 / number), size=DRAWS).astype(np.float64)


def _check_shapes(bits: Mapping[str, Array], sizes: Array) -> None:
    shapes = {arm: of_arm.shape for arm, of_arm in bits.items()}
    first = next(iter(shapes.values()))
    if len(first) != 2 or any(shape != first for shape in shapes.values()):
        raise ConfigError(
            f"the bits have the shapes {shapes}: every arm needs the same seeds and documents,"
            " [seeds, documents]"
        )
    if min(first) < 2 or first[1] != len(sizes):
        raise ConfigError(
            f"the bits have the shape {first}, [seeds, documents], beside {len(sizes)} sizes:"
            " give at least 2 seeds and 2 documents, and a size for every document"
        )
    if not np.all(sizes > 0):
        raise ConfigError("a document has no bytes: leave it out, since it cannot be scored")


@dataclass(frozen=True)
class RatioBootstrap:
    """A ratio of sums over documents, its standard error, and a percentile interval."""

    estimate: float
    stderr: float
    interval: Interval


def bootstrap_ratio(
    values: Array, weights: Array, alpha: float = 0.05, draws: int = 2_000
) -> RatioBootstrap:
    """The sum of values over the sum of weights, documents drawn with replacement, the same at
    every call; with weights of 1 a mean.

    values, weights: float64, [documents], weights positive. Source: Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, chapters 6 and 13. Of documents that are all alike the interval
    has no width, and says nothing. Raises ConfigError for fewer than 2 documents and for weights
    that are not positive.
    """
    if len(values) < 2 or len(values) != len(weights) or not np.all(weights > 0):
        raise ConfigError(
            f"{len(values)} values and {len(weights)} weights: a bootstrap draws from at least 2"
            " documents, each with a positive weight"
        )
    rng = np.random.default_rng(0)
    size = len(values)
    part = max(1, 1_000_000 // size)  # draws at once: 8 MB of counts
    levels = []
    for first in range(0, draws, part):
        counts = rng.multinomial(size, np.full(size, 1 / size), size=min(part, draws - first))
        levels.append((counts @ values) / (counts @ weights))
    drawn = np.concatenate(levels)
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    return RatioBootstrap(
        float(values.sum() / weights.sum()), float(drawn.std(ddof=1)), (float(low), float(high))
    )
