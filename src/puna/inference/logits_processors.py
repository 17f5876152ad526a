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

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from puna.inference.request import GenerationOptions

Logits = Float[Tensor, "R V"]


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
    allowed: Bool[Tensor, "V"] | None = None
    banned: Sequence[int] = ()


def repetition_penalty(
    logits: Logits, seen: Bool[Tensor, "R V"], penalty: Float[Tensor, "R 1"]
) -> Logits:
    """Divide the positive logits of tokens already seen by `penalty`, multiply the negative ones.

    Source: Keskar et al. 2019, CTRL, section 4.1, with the sign rule of transformers. Beyond 1e-15
    to 1e15 the penalty grows no more, so that logits stay finite. Usual mistake: dividing negative
    logits too, which makes repeats likelier.
    """
    penalty = penalty.clamp(1e-15, 1e15)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def output_penalty(
    logits: Logits,
    counts: Float[Tensor, "R V"],
    presence: Float[Tensor, "R 1"],
    frequency: Float[Tensor, "R 1"],
) -> Logits:
    """logits - counts * frequency - (counts > 0) * presence; `counts`: how often each token was
    generated, the prompt left out.

    Source: OpenAI's API reference, presence and frequency penalties.
    """
    return logits - counts * frequency - (counts > 0) * presence


def with_temperature(logits: Logits, temperature: Float[Tensor, "R 1"]) -> Logits:
    """Divide by the temperature, which is above 0, after the row's greatest logit was made 0, so
    that nothing overflows.
    """
    return (logits - logits.amax(-1, keepdim=True)) / temperature.clamp(1e-30, 1e30)


def top_k(logits: Logits, k: Int[Tensor, "R 1"]) -> Logits:
    """Keep the k likeliest tokens, and any that tie with the last of them. Source: Fan et al. 2018,
    section 5.2.
    """
    most = min(int(k.max()), logits.shape[-1])
    least = logits.topk(most).values.gather(1, k.clamp(max=most) - 1)
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Logits, p: Float[Tensor, "R 1"]) -> Logits:
    """Keep the fewest likeliest tokens whose probabilities reach p, and any that tie with the last
    of them.

    Source: Holtzman et al. 2019, section 3.1. Counted from the unlikely end: drop while the dropped
    ones' sum is at most 1 - p. Usual mistake: dropping the token that crosses p, which leaves
    nothing when the likeliest alone exceeds it.
    """
    probabilities = logits.softmax(-1)
    # From the unlikely end, so that the sum's rounding error is of the size of the dropped share
    ordered = _ascending(probabilities)
    cumulative = ordered.double().cumsum_(-1)
    dropped = torch.searchsorted(cumulative, (1 - p) * cumulative[:, -1:], right=True).clamp(
        max=logits.shape[-1] - 1
    )
    return logits.masked_fill(probabilities < ordered.gather(1, dropped), -torch.inf)


def min_p(logits: Logits, fraction: Float[Tensor, "R 1"]) -> Logits:
    """Keep tokens with at least `fraction` of the likeliest token's probability. Source: Nguyen et
    al. 2024, section 3.
    """
    probabilities = logits.softmax(-1)
    return logits.masked_fill(
        probabilities < fraction * probabilities.amax(-1, keepdim=True), -torch.inf
    )


def typical_p(logits: Logits, p: Float[Tensor, "R 1"]) -> Logits:
    """Keep the fewest tokens whose negative log-probability is closest to its mean, the entropy,
    and whose probabilities reach p; ties stay.

    Source: Meister et al. 2022, Locally Typical Sampling.
    Usual mistake: 0 x -inf = nan in the entropy, where an earlier filter ruled tokens out.
    """
    nll = -logits.log_softmax(-1)
    probabilities = logits.softmax(-1)
    # Tokens ruled out have p = 0 and nll = inf: they add 0, as the limit of -p ln p. In nats
    entropy = torch.where(probabilities > 0, probabilities * nll, 0.0).double().cumsum_(-1)[:, -1:]
    distance = (nll - entropy.float()).abs()
    # One sort gives distances and ids, and orders equal distances by id on every device
    ids = ids_of_keys(_ascending(sort_keys(distance)))
    cumulative = probabilities.gather(1, ids).double().cumsum_(-1)
    # Index of the token that reaches p; the clamp is for sums that rounding leaves below it
    last = torch.searchsorted(cumulative, p.double()).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(distance > distance.gather(1, ids.gather(1, last)), -torch.inf)


def process_logits(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    """Logits after the processors that act at every temperature: bias, penalties, and -inf for
    tokens that may not come.
    """
    return _in_turn(_PROCESSORS, logits, rows)


def filter_logits(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    """Processed logits of rows whose temperature is above 0, to the logits of the distribution that
    their tokens are drawn from.
    """
    return _in_turn(_FILTERS, logits, rows)


# Predicate of the rows that want the processor, and the processor for those rows
_Processor = tuple[Callable[[SamplingRow], bool], Callable[[Logits, Sequence[SamplingRow]], Logits]]


def _in_turn(steps: Iterable[_Processor], logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    # A row that does not ask for a processor never passes through it: its bits stay as they are
    for wanted, step in steps:
        indices = [index for index, row in enumerate(rows) if wanted(row)]
        if len(indices) == len(rows):
            logits = step(logits, rows)
        elif indices:
            where = torch.tensor(indices, device=logits.device)
            logits = logits.index_copy(
                0, where, step(logits[where], [rows[index] for index in indices])
            )
    return logits


def _with_bias(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    cells = [
        (index, token, bias)
        for index, row in enumerate(rows)
        for token, bias in row.options.logit_bias.items()
    ]
    indices, tokens, biases = zip(*cells, strict=True)
    # A cell occurs once, since logit_bias is a dict; accumulate adds instead of assigning
    values = torch.tensor(biases, dtype=logits.dtype, device=logits.device)
    return logits.index_put((torch.tensor(indices), torch.tensor(tokens)), values, accumulate=True)


def _with_repetition_penalty(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    seen = _counts([chain(row.prompt, row.output) for row in rows], logits) > 0
    return repetition_penalty(
        logits, seen, _column([row.options.repetition_penalty for row in rows], logits)
    )


def _with_output_penalty(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    presence = _column([row.options.presence_penalty for row in rows], logits)
    frequency = _column([row.options.frequency_penalty for row in rows], logits)
    return output_penalty(
        logits, _counts([row.output for row in rows], logits), presence, frequency
    )


def _without_banned(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    indices, tokens = zip(
        *((index, token) for index, row in enumerate(rows) for token in row.banned), strict=True
    )
    return logits.index_put(
        (torch.tensor(indices), torch.tensor(tokens)),
        torch.tensor(-torch.inf, device=logits.device),
    )


def _within_allowed(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    allowed = torch.stack([row.allowed for row in rows if row.allowed is not None])
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


def _by_option(
    name: str, neutral: float | None, change: Callable[[Logits, Tensor], Logits]
) -> _Processor:
    """A filter with one parameter, which does nothing where it is `neutral`."""
    return (
        lambda row: getattr(row.options, name) != neutral,
        lambda logits, rows: change(
            logits, _column([getattr(row.options, name) for row in rows], logits)
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


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """One parameter for each row, [R, 1]: int64 of integers, else float32."""
    return torch.tensor(values, device=like.device)[:, None]


def _counts(texts: Iterable[Iterable[int]], like: Logits) -> Float[Tensor, "R V"]:
    """Count of each id in each text."""
    counts = [np.bincount(np.fromiter(text, np.int64), minlength=like.shape[-1]) for text in texts]
    return torch.from_numpy(np.stack(counts)).to(like)


def sort_keys(values: Logits) -> Int[Tensor, "R V"]:
    """Numbers in the order of non-negative float32 values, whose bits grow with them, and of their
    ids where the values are equal.
    """
    return values.view(torch.int32).long() << 32 | torch.arange(
        values.shape[-1], device=values.device
    )


def ids_of_keys(keys: Int[Tensor, "R N"]) -> Int[Tensor, "R N"]:
    """The ids that went into the keys."""
    return keys & 0xFFFFFFFF


def _ascending(values: Tensor) -> Tensor:
    """The rows sorted, each by itself."""
    # NumPy's sort uses the processor's vectors: 4,096 floats took it 55 us, PyTorch's sort 260, and
    # PyTorch's topk of 256 about 60, after which a flat distribution still wants the sort (one core
    # of an AMD EPYC, AVX-512)
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values
