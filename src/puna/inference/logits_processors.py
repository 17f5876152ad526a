"""Logits processors: penalties, biases, masks and filters on logits [R, V], one row a draw. Pure
functions; each processor runs on the rows that ask for it.

The order is that of transformers' generate, with OpenAI's penalties after CTRL's:

    logit_bias -> repetition_penalty -> presence_penalty, frequency_penalty -> banned -> allowed
        `process_logits`
    -> temperature -> top_k -> top_p -> min_p -> typical_p
        `filter_logits`

Rows are computed without regard to each other, to the last bit on a CPU. To keep that so, a sum
over V is the end of a running sum: PyTorch splits the plain sum of a lone row among threads.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.inference.arrays import (
    Array,
    ascending,
    ascending_from,
    column,
    first_above,
    first_reaching,
    float32,
    gather,
    greatest,
    ids_of_keys,
    like,
    log_softmax,
    replaced,
    running_sums,
    smallest,
    softmax,
    sort_keys,
    where,
)
from puna.inference.request import GenerationOptions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """Input of one draw besides its logits.

    index: which of the request's n sequences. output: the tokens before this draw, draft tokens
    included; their number is the draw's position. seed: the request's. allowed: bool [V], where a
    constraint lets go on. banned: ids that may not come yet.
    """

    options: GenerationOptions
    index: int
    prompt: Sequence[int]
    output: Sequence[int]
    seed: int
    allowed: "NDArray[np.bool_] | None" = None
    banned: Sequence[int] = ()


def repetition_penalty(
    logits: "Float[Array, 'R V']", seen: "Bool[Array, 'R V']", penalty: "Float[Array, 'R 1']"
) -> Array:
    """Divide the positive logits of tokens already seen by `penalty`, multiply the negative ones.

    Source: Keskar et al. 2019, CTRL, section 4.1, with the sign rule of transformers. Beyond 1e-15
    to 1e15 the penalty grows no more, so that logits stay finite. Usual mistake: dividing negative
    logits too, which makes repeats likelier.
    """
    penalty = penalty.clip(1e-15, 1e15)
    return where(seen, where(logits > 0, logits / penalty, logits * penalty), logits)


def output_penalty(
    logits: "Float[Array, 'R V']",
    counts: "Float[Array, 'R V']",
    presence: "Float[Array, 'R 1']",
    frequency: "Float[Array, 'R 1']",
) -> Array:
    """logits - counts * frequency - (counts > 0) * presence; `counts`: how often each token was
    generated, the prompt left out.

    Source: OpenAI's API reference, presence and frequency penalties.
    """
    changed: Array = logits - counts * frequency - (counts > 0) * presence
    return changed


def with_temperature(logits: "Float[Array, 'R V']", temperature: "Float[Array, 'R 1']") -> Array:
    """Divide by the temperature, which is above 0, after the row's greatest logit was made 0, so
    that nothing overflows.
    """
    changed: Array = (logits - greatest(logits)) / temperature.clip(1e-30, 1e30)
    return changed


def top_k(logits: "Float[Array, 'R V']", k: "Int[Array, 'R 1']") -> Array:
    """Keep the k likeliest tokens, and any that tie with the last of them. Source: Fan et al. 2018,
    section 5.2.
    """
    most = min(int(k.max()), logits.shape[-1])
    least = gather(-smallest(-logits, most), k.clip(max=most) - 1)
    return where(logits < least, -inf, logits)


def top_p(logits: "Float[Array, 'R V']", p: "Float[Array, 'R 1']") -> Array:
    """Keep the fewest likeliest tokens whose probabilities reach p, and any that tie with the last
    of them.

    Source: Holtzman et al. 2019, section 3.1. Counted from the unlikely end: drop while the dropped
    ones' sum is at most 1 - p. Usual mistake: dropping the token that crosses p, which leaves
    nothing when the likeliest alone exceeds it.
    """
    probabilities = softmax(logits)
    # From the unlikely end, so that the sum's rounding error is of the size of the dropped share.
    # All tokens below (1 - p) / 2V together have at most half of the share 1 - p: their order is
    # of no effect
    ordered = ascending_from(probabilities, (1 - p) / (2 * logits.shape[-1]))
    least = gather(ordered, first_above(ordered, 1 - p))
    return where(probabilities < least, -inf, logits)


def min_p(logits: "Float[Array, 'R V']", fraction: "Float[Array, 'R 1']") -> Array:
    """Keep tokens with at least `fraction` of the likeliest token's probability. Source: Nguyen et
    al. 2024, section 3.
    """
    probabilities = softmax(logits)
    return where(probabilities < fraction * greatest(probabilities), -inf, logits)


def typical_p(logits: "Float[Array, 'R V']", p: "Float[Array, 'R 1']") -> Array:
    """Keep the fewest tokens whose negative log-probability is closest to its mean, the entropy,
    and whose probabilities reach p; ties stay.

    Source: Meister et al. 2022, Locally Typical Sampling.
    Usual mistake: 0 x -inf = nan in the entropy, where an earlier filter ruled tokens out.
    """
    nll = -log_softmax(logits)
    probabilities = softmax(logits)
    # Tokens ruled out have p = 0 and nll = inf: they add 0, as the limit of -p ln p. In nats
    entropy = running_sums(probabilities * where(probabilities <= 0, 0.0, nll))[:, -1:]
    distance: Array = abs(nll - float32(entropy))
    # One sort gives distances and ids, and orders equal distances by id on every device
    ids = ids_of_keys(ascending(sort_keys(distance)))
    # Index of the token that reaches p, or the last where rounding leaves the sums below it
    last = first_reaching(gather(probabilities, ids), p)
    return where(distance > gather(distance, gather(ids, last)), -inf, logits)


def process_logits(logits: "Float[Array, 'R V']", rows: Sequence[SamplingRow]) -> Array:
    """Logits after the processors that act at every temperature: bias, penalties, and -inf for
    tokens that may not come.
    """
    # A large penalty makes a very negative logit -inf, and is to
    with np.errstate(over="ignore"):
        changed: Array = _in_turn(_PROCESSORS, logits, rows)
    return changed


def filter_logits(logits: "Float[Array, 'R V']", rows: Sequence[SamplingRow]) -> Array:
    """Processed logits of rows whose temperature is above 0, to the logits of the distribution that
    their tokens are drawn from.
    """
    # A temperature near 0 likewise
    with np.errstate(over="ignore"):
        changed: Array = _in_turn(_FILTERS, logits, rows)
    return changed


# Predicate of the rows that want the processor, and the processor for those rows
_Processor = tuple[Callable[[SamplingRow], bool], Callable[[Any, Sequence[SamplingRow]], Any]]


def _in_turn(steps: Iterable[_Processor], logits: Any, rows: Sequence[SamplingRow]) -> Any:
    # A row that does not ask for a processor never passes through it: its bits stay as they are
    for wanted, step in steps:
        indices = [index for index, row in enumerate(rows) if wanted(row)]
        if len(indices) == len(rows):
            logits = step(logits, rows)
        elif indices:
            changed = step(logits[indices], [rows[index] for index in indices])
            logits = replaced(logits, indices, changed)
    return logits


def _with_bias(logits: Array, rows: Sequence[SamplingRow]) -> Array:
    # A cell occurs once, since logit_bias is a dict
    biases = np.array([bias for row in rows for bias in row.options.logit_bias.values()])
    cells = _cells([row.options.logit_bias for row in rows])
    return replaced(logits, cells, logits[cells] + like(biases.astype(np.float32), logits))


def _with_repetition_penalty(logits: Array, rows: Sequence[SamplingRow]) -> Array:
    seen = _counts([chain(row.prompt, row.output) for row in rows], logits) > 0
    return repetition_penalty(
        logits, seen, column([row.options.repetition_penalty for row in rows], logits)
    )


def _with_output_penalty(logits: Array, rows: Sequence[SamplingRow]) -> Array:
    presence = column([row.options.presence_penalty for row in rows], logits)
    frequency = column([row.options.frequency_penalty for row in rows], logits)
    return output_penalty(
        logits, _counts([row.output for row in rows], logits), presence, frequency
    )


def _without_banned(logits: Array, rows: Sequence[SamplingRow]) -> Array:
    return replaced(logits, _cells([row.banned for row in rows]), -inf)


def _within_allowed(logits: Array, rows: Sequence[SamplingRow]) -> Array:
    allowed = np.stack([row.allowed for row in rows if row.allowed is not None])
    return where(like(~allowed, logits), -inf, logits)


def _by_option(name: str, neutral: float | None, change: Callable[[Any, Any], Any]) -> _Processor:
    """A filter with one parameter, which does nothing where it is `neutral`."""
    return (
        lambda row: getattr(row.options, name) != neutral,
        lambda logits, rows: change(
            logits, column([getattr(row.options, name) for row in rows], logits)
        ),
    )


_PROCESSORS: tuple[_Processor, ...] = (
    (lambda row: bool(row.options.logit_bias), _with_bias),
    (lambda row: row.options.repetition_penalty != 1, _with_repetition_penalty),
    (
        lambda row: row.options.presence_penalty != 0 or row.options.frequency_penalty != 0,
        _with_output_penalty,
    ),
    (lambda row: bool(row.banned), _without_banned),
    (lambda row: row.allowed is not None, _within_allowed),
)
_FILTERS: tuple[_Processor, ...] = (
    _by_option("temperature", 1.0, with_temperature),
    _by_option("top_k", None, top_k),
    _by_option("top_p", 1.0, top_p),
    _by_option("min_p", 0.0, min_p),
    _by_option("typical_p", 1.0, typical_p),
)


def _cells(tokens: Iterable[Iterable[int]]) -> tuple[list[int], list[int]]:
    """Row and id of each token of each row, as an index into logits."""
    cells = [(index, token) for index, some in enumerate(tokens) for token in some]
    return [index for index, _ in cells], [token for _, token in cells]


def _counts(texts: Iterable[Iterable[int]], logits: Array) -> Array:
    """Count of each id in each text, float32 [R, V]."""
    counts = [
        np.bincount(np.fromiter(text, np.int64), minlength=logits.shape[-1]) for text in texts
    ]
    return like(np.stack(counts).astype(np.float32), logits)
