"""The order of training samples: from (seed, global sample index) to (source, window), a pure
function.

    index --schedule--> (source, n-th sample of it) --windows--> (epoch, position)
        --permutation--> window

What it is not: it opens no shard and holds no position; `loader.py` turns windows into tokens.

Cost: one period of the schedule is computed once (2 us a step, at most a million steps) and kept, 9
bytes a step; then any index is found in constant time. The permutations need no memory.

Windows do not overlap in their targets: window w holds the T+1 tokens from w*T on, of which the
last T are targets.
"""

import heapq
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.data.permutation import permute
from puna.errors import DataError

MAX_PERIOD = 1_000_000
"""Steps after which a schedule must repeat: the common denominator of the weights."""


class Sample(NamedTuple):
    """One position in the order of the data."""

    source: str
    epoch: int
    """The number of times that all windows of the source were seen before: 0 in the first."""
    window: int


class Samples(NamedTuple):
    """Many positions in the order of the data; arrays of one length."""

    source: npt.NDArray[np.int64]
    """Numbers of sources, in the order of `Mixture.names`."""
    epoch: npt.NDArray[np.int64]
    window: npt.NDArray[np.int64]


class Schedule:
    """A periodic sequence of source numbers in which every prefix is within one sample of the exact
    proportions.

    The j-th sample of a source with share p may come no earlier than step (j-1+e)/p and no later
    than (j-e)/p + 1, with e = 1/(2k-2) for k sources; earliest deadline first always meets these
    bounds, so the error stays at most 1 - e (Tijdeman, "The chairman assignment problem", 1980).
    The usual mistake: taking the source with the largest deficit instead, which is off by more than
    one sample for shares such as 1, 3, 27, 3, 27.
    """

    def __init__(self, shares: list[int]) -> None:
        """Build one period, of sum(shares) steps; a source gets `shares[i]` of them.

        shares: positive integers without a common divisor.
        """
        self.period = sum(shares)
        self.shares = np.array(shares, dtype=np.int64)
        self.source = np.array(
            _earliest_deadline_first(shares), dtype=np.uint8 if len(shares) <= 256 else np.int64
        )
        # rank: how many earlier steps of the period took the same source; 8 bytes a step
        self.rank = np.empty(self.period, dtype=np.int64)
        for number, share in enumerate(shares):
            self.rank[self.source == number] = np.arange(share)

    def locate(
        self, indices: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each global index [N], the source's number [N] and how many samples of that source
        came before [N].
        """
        round_, step = np.divmod(indices, self.period)
        source = self.source[step].astype(np.int64)
        return source, round_ * self.shares[source] + self.rank[step]


class Mixture:
    """Sources in fixed proportions of samples, each in rounds ("epochs") over its shuffled
    windows.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        num_tokens: Mapping[str, int],
        context_length: int,
        seed: int,
    ) -> None:
        """Take relative weights, which need not add up to 1, the tokens of each source, and T.

        The order depends on the sources' positions in `weights`, not on their names, so that a
        folder may be moved between two parts of a run. A weight counts as the decimal number that
        it prints as. Raises DataError for weights that are no positive numbers or have too many
        digits, for other names in `num_tokens`, and for a source shorter than one window.
        """
        if set(weights) != set(num_tokens):
            raise DataError(
                f"the mixture weighs {sorted(weights)}, but its sources are {sorted(num_tokens)};"
                " give each source one weight"
            )
        self.names = tuple(weights)
        """The sources in the order of their numbers."""
        self.num_windows = {
            name: max(0, (num_tokens[name] - 1) // context_length) for name in weights
        }
        """Windows of each source: how many samples an epoch of it has."""
        for name, count in self.num_windows.items():
            if not count:
                raise DataError(
                    f"the source {name} has {num_tokens[name]} tokens, fewer than one window of"
                    f" {context_length} + 1; add text or shorten the context (in a recipe"
                    f" train.context_length, to {num_tokens[name] - 1} at most)"
                )
        self.schedule = Schedule(_shares(weights))
        self._seed = seed
        self._lengths = np.array([self.num_windows[name] for name in self.names], dtype=np.int64)

    def sample(self, index: int) -> Sample:
        """The sample with this global index, from 0 on."""
        found = self.samples(np.array([index], dtype=np.int64))
        return Sample(self.names[int(found.source[0])], int(found.epoch[0]), int(found.window[0]))

    def samples(self, indices: npt.NDArray[np.int64]) -> Samples:
        """The samples with these global indices [N], in their order; the same whichever are asked
        for together.
        """
        source, count = self.schedule.locate(indices)
        epoch, position = np.divmod(count, self._lengths[source])
        window = np.empty_like(position)
        # a few permutations a batch: one for each source and epoch in it
        for number, round_ in {*zip(source.tolist(), epoch.tolist(), strict=True)}:
            chosen = (source == number) & (epoch == round_)
            key = f"{self._seed}/{number}/{round_}"
            window[chosen] = permute(position[chosen], int(self._lengths[number]), key)
        return Samples(source, epoch, window)


def epochs(
    weights: Mapping[str, float], unique_tokens: Mapping[str, float], token_budget: float
) -> dict[str, float]:
    """Epochs of each source in a run: weight * budget / unique tokens, with weights relative to
    their sum.

    Formula and the table that it reproduces: Touvron et al., "LLaMA", 2023, table 1. Raises
    DataError for weights that are no positive numbers, for differing names and for a source without
    tokens.
    """
    exact = _fractions(weights)
    total = sum(exact.values())
    missing = [name for name in weights if unique_tokens.get(name, 0) <= 0]
    if missing:
        raise DataError(
            f"the sources {missing} have no tokens; give the unique tokens of every source that is"
            " weighed"
        )
    return {
        name: float(weight / total) * token_budget / unique_tokens[name]
        for name, weight in exact.items()
    }


def _fractions(weights: Mapping[str, float]) -> dict[str, Fraction]:
    if not weights:
        raise DataError("the mixture has no sources; give at least one weight")
    exact = {}
    for name, weight in weights.items():
        try:
            exact[name] = Fraction(str(weight))  # 0.1 is 1/10, not its binary neighbour
        except ValueError:
            exact[name] = Fraction(0)
        if exact[name] <= 0:
            raise DataError(
                f"the weight of {name} is {weight}, but weights are positive numbers; leave the"
                " source out"
            )
    return exact


def _shares(weights: Mapping[str, float]) -> list[int]:
    """The smallest integers in the same proportions."""
    exact = list(_fractions(weights).values())
    # to integers by the common denominator, then without a common divisor: the shortest period
    scale = math.lcm(*(weight.denominator for weight in exact))
    shares = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*shares)
    shares = [share // divisor for share in shares]
    if sum(shares) > MAX_PERIOD:
        raise DataError(
            f"the weights {dict(weights)} repeat only after {sum(shares)} samples, but at most"
            f" {MAX_PERIOD} are scheduled; round them to fewer digits, such as 0.333"
        )
    return shares


def _earliest_deadline_first(shares: list[int]) -> list[int]:
    """The source of each step of one period. A source waits by release step until that step, then
    by deadline.
    """
    period, q = sum(shares), max(1, 2 * len(shares) - 2)
    waiting = [(-(-period // (q * share)), number, 1) for number, share in enumerate(shares)]
    heapq.heapify(waiting)
    ready: list[tuple[int, int, int]] = []
    order = []
    for step in range(1, period + 1):
        # steps count from 1, as in Tijdeman's bounds
        # all arithmetic is in integers: a rounded release or deadline could break the bound
        while waiting and waiting[0][0] <= step:
            _, number, count = heapq.heappop(waiting)
            deadline = period * (q * count - 1) // (q * shares[number]) + 1
            heapq.heappush(ready, (deadline, number, count))
        deadline, number, count = heapq.heappop(ready)
        assert step <= deadline, "a feasible schedule was missed"
        order.append(number)
        release = -(-period * (q * count + 1) // (q * shares[number]))
        heapq.heappush(waiting, (release, number, count + 1))
    return order
