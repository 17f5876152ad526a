"""From logits to the next token of every row of a batch, and to log-probabilities: pure functions
of logits [R, V], one row a draw.

Each row has its own options, applied by its logits processors (logits_processors.py). `temperature`
0 takes the greatest logit after `process_logits`, of equal ones that with the lowest id. Otherwise
`draw` inverts the cumulative distribution at `uniform(seed, index, position)`. Rows are computed
without regard to each other, to the last bit on a CPU, so a token depends neither on its batch nor
on whether it was drafted before.

A greedy row costs an argmax, one without filters a softmax and a running sum; top_p adds a sort,
and a penalty a count of the tokens so far.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.inference.arrays import (
    Array,
    column,
    first_above,
    float32,
    floor,
    gather,
    greatest,
    ids_of_keys,
    like,
    log_softmax,
    smallest,
    softmax,
    sort_keys,
)
from puna.inference.logits_processors import SamplingRow, filter_logits, process_logits
from puna.inference.request import TokenLogprobs

if TYPE_CHECKING:
    from jaxtyping import Float

    from puna.inference.executor import Logits


def choose(logits: "Logits", rows: Sequence[SamplingRow]) -> list[int]:
    """The next token of each row.

    Raises ValueError, naming the rows, if the greatest logit of any is not finite: a constraint
    that allows nothing, or a broken model.
    """
    if not rows:
        return []
    values = process_logits(float32(logits), rows)
    # The greatest logit shows both faults: -inf where all are ruled out, nan where any is nan
    dead = [
        index
        for index, (highest,) in enumerate(greatest(values).tolist())
        if not math.isfinite(highest)
    ]
    if dead:
        raise ValueError(
            f"no token can be chosen for the rows {dead} of {len(rows)}: their greatest logit"
            " is -inf, inf or nan"
        )
    greedy = [index for index, row in enumerate(rows) if row.options.temperature == 0]
    random = [index for index, row in enumerate(rows) if row.options.temperature != 0]
    chosen: dict[int, int] = {}
    if greedy:
        chosen |= zip(greedy, _taken(values, greedy).argmax(-1).tolist(), strict=True)
    if random:
        drawn = [rows[index] for index in random]
        # By position in the output, not by step: a batch or a rejected draft changes no draw
        noise = [uniform(row.seed, row.index, len(row.output)) for row in drawn]
        filtered = filter_logits(_taken(values, random), drawn)
        chosen |= zip(random, draw(filtered, noise), strict=True)
    return [chosen[index] for index in range(len(rows))]


def uniform(seed: int, index: int, position: int) -> float:
    """The noise of a draw: a multiple of 2^-53 in [0, 1), the same on every machine.

    Sequence `index` of a request has the seed `seed + index`, so it equals the only
    sequence of a request with that seed. Formula: the first 53 bits of the 8-byte BLAKE2b of
    both numbers, unsigned and little-endian.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed + index, position), digest_size=8).digest()
    # 64 bits - 11 = the 53 of a double's significand, so the product is exact and below 1
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def draw(logits: "Float[Array, 'R V']", noise: Sequence[float]) -> list[int]:
    """The first id of each row at which the cumulative distribution exceeds that row's noise in [0,
    1); never one of probability 0.

    Probabilities are rounded down to multiples of 2^-52, so that their sums in float64 are exact,
    whatever the order of addition. Then noise x total is below the total, and an id that adds
    nothing is not the first to exceed anything. Usual mistake: float32 sums, whose last value may
    stay below the noise, or stand at an id that was ruled out.
    """
    # Multiples of 2^-52 below 1 add up in float64 without rounding, in any order
    weights = floor(softmax(logits) * 2.0**52)
    # Above, not at: so an id of weight 0 is passed over even at height 0
    tokens: list[int] = first_above(weights, like(np.array(noise)[:, None], weights))[:, 0].tolist()
    return tokens


def log_probabilities(
    logits: "Logits", chosen: Sequence[int], tops: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """Of each row the log-probability of the chosen id and the `tops` likeliest ids; None for a row
    whose `tops` is None.

    Raw ones, in float32, before any logits processor. Equal alternatives stand in the order
    of their ids.
    """
    result: list[TokenLogprobs | None] = [None] * len(tops)
    asked = [(index, top) for index, top in enumerate(tops) if top is not None]
    if not asked:
        return result
    indices = [index for index, _ in asked]
    scores = log_softmax(_taken(float32(logits), indices))
    ids = [chosen[index] for index in indices]
    own = gather(scores, column(ids, scores))[:, 0].tolist()
    # One selection for all rows, as wide as the largest demand; each row takes its share below
    most = min(max(top for _, top in asked), scores.shape[-1])
    likeliest = ids_of_keys(smallest(sort_keys(-scores), most))
    tokens, values = likeliest.tolist(), gather(scores, likeliest).tolist()
    for (index, top), token, score, best in zip(
        asked, ids, own, zip(tokens, values, strict=True), strict=True
    ):
        result[index] = TokenLogprobs(
            token, score, tuple(zip(best[0][:top], best[1][:top], strict=True))
        )
    return result


def _taken(array: Any, indices: Sequence[int]) -> Any:
    return array if len(indices) == len(array) else array[indices]
