"""From logits to the next token of every row of a batch, and to log-probabilities: pure functions
of logits [R, V], one row a draw.

Each row has its own options. The order is that of transformers' generate, with OpenAI's penalties
after CTRL's:

    logit_bias -> repetition_penalty -> presence_penalty, frequency_penalty -> banned -> allowed
        `adjusted`
    -> temperature -> top_k -> top_p -> min_p -> typical_p
        `filtered`

`temperature` 0 takes the greatest logit after `adjusted`, of equal ones that with the lowest id.
Otherwise `draw` inverts the cumulative distribution at `uniform(seed, index, position)`. Rows are
computed without regard to each other, to the last bit on a CPU, so a token depends neither on its
batch nor on whether it was guessed before. To keep that so, a sum over V is the end of a running
sum: PyTorch splits the plain sum of a lone row among threads.

Each step is made for the rows that ask for it. A greedy row costs an argmax, one without filters a
softmax and a running sum; top_p adds a sort, and a penalty a count of the tokens so far.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from puna.inference.request import GenerationOptions, TokenLogprobs

Logits = Float[Tensor, "R V"]


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What decides one draw besides its logits.

    index: which of the request's n continuations. output: the tokens before this draw, guessed ones
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


def choose(logits: Logits, rows: Sequence[SamplingRow]) -> list[int]:
    """The next token of each row.

    Raises ValueError, naming the rows, if the greatest logit of any is not finite: a constraint
    that allows nothing, or a broken model.
    """
    if not rows:
        return []
    with torch.inference_mode():
        logits = adjusted(_exact(logits), rows)
        dead = [
            place
            for place, greatest in enumerate(logits.amax(-1).tolist())
            if not math.isfinite(greatest)
        ]
        if dead:
            raise ValueError(
                f"no token can be chosen for the rows {dead} of {len(rows)}: their greatest logit"
                " is -inf, inf or nan"
            )
        greedy = [place for place, row in enumerate(rows) if row.options.temperature == 0]
        random = [place for place, row in enumerate(rows) if row.options.temperature != 0]
        chosen: dict[int, int] = {}
        if greedy:
            chosen |= zip(greedy, _taken(logits, greedy).argmax(-1).tolist(), strict=True)
        if random:
            drawn = [rows[place] for place in random]
            noise = [uniform(row.seed, row.index, len(row.output)) for row in drawn]
            chosen |= zip(random, draw(filtered(_taken(logits, random), drawn), noise), strict=True)
    return [chosen[place] for place in range(len(rows))]


def uniform(seed: int, index: int, position: int) -> float:
    """The noise of a draw: a multiple of 2^-53 in [0, 1), the same on every machine.

    SequenceState `index` of a request has the seed `seed + index`, so it equals the only
    continuation of a request with that seed. Formula: the first 53 bits of the 8-byte BLAKE2b of
    both numbers, unsigned and little-endian.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed + index, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def draw(logits: Logits, noise: Sequence[float]) -> list[int]:
    """The first id of each row at which the cumulative distribution exceeds that row's noise in [0,
    1); never one of probability 0.

    Probabilities are rounded down to multiples of 2^-52, so that their sums in float64 are exact,
    whatever the order of addition. Then noise x total is below the total, and an id that adds
    nothing is not the first to exceed anything. Usual mistake: float32 sums, whose last value may
    stay below the noise, or stand at an id that was ruled out.
    """
    weights = (logits.softmax(-1) * 2.0**52).floor_()
    cumulative = weights.double().cumsum_(-1)
    heights = (
        torch.tensor(noise, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    )
    tokens: list[int] = torch.searchsorted(cumulative, heights, right=True)[:, 0].tolist()
    return tokens


def log_probabilities(
    logits: Logits, chosen: Sequence[int], tops: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """Of each row the log-probability of the chosen id and the `tops` likeliest ids; None for a row
    whose `tops` is None.

    They are the model's own, in float32, before any option. Equal alternatives stand in the order
    of their ids.
    """
    result: list[TokenLogprobs | None] = [None] * len(tops)
    asked = [(place, top) for place, top in enumerate(tops) if top is not None]
    if not asked:
        return result
    with torch.inference_mode():
        places = [place for place, _ in asked]
        scores = _taken(_exact(logits), places).log_softmax(-1)
        ids = [chosen[place] for place in places]
        own = scores.gather(1, torch.tensor(ids, device=scores.device)[:, None])[:, 0].tolist()
        most = min(max(top for _, top in asked), scores.shape[-1])
        likeliest = _ids(_keys(-scores).topk(most, largest=False).values)
        tokens, values = likeliest.tolist(), scores.gather(1, likeliest).tolist()
    for (place, top), token, score, best in zip(
        asked, ids, own, zip(tokens, values, strict=True), strict=True
    ):
        result[place] = TokenLogprobs(
            token, score, tuple(zip(best[0][:top], best[1][:top], strict=True))
        )
    return result


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
    """Keep the fewest tokens whose surprise is closest to the mean surprise, the entropy, and whose
    probabilities reach p; ties stay.

    Source: Meister et al. 2022, Locally Typical Sampling.
    Usual mistake: 0 x -inf = nan in the entropy, where an earlier filter ruled tokens out.
    """
    surprise = -logits.log_softmax(-1)
    probabilities = logits.softmax(-1)
    entropy = (
        torch.where(probabilities > 0, probabilities * surprise, 0.0).double().cumsum_(-1)[:, -1:]
    )
    distance = (surprise - entropy.float()).abs()
    ids = _ids(_ascending(_keys(distance)))
    cumulative = probabilities.gather(1, ids).double().cumsum_(-1)
    last = torch.searchsorted(cumulative, p.double()).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(distance > distance.gather(1, ids.gather(1, last)), -torch.inf)


def adjusted(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    """The logits with what acts at every temperature: the bias, the penalties, and -inf for what
    may not come.
    """
    return _in_turn(_ADJUSTMENTS, logits, rows)


def filtered(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    """Adjusted logits of rows whose temperature is above 0, to the logits of the distribution that
    their tokens are drawn from.
    """
    return _in_turn(_FILTERS, logits, rows)


# Who wants a step, and the step for those rows
_Step = tuple[Callable[[SamplingRow], bool], Callable[[Logits, Sequence[SamplingRow]], Logits]]


def _in_turn(steps: Iterable[_Step], logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    for wanted, step in steps:
        places = [place for place, row in enumerate(rows) if wanted(row)]
        if len(places) == len(rows):
            logits = step(logits, rows)
        elif places:
            where = torch.tensor(places, device=logits.device)
            logits = logits.index_copy(
                0, where, step(logits[where], [rows[place] for place in places])
            )
    return logits


def _with_bias(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    cells = [
        (place, token, bias)
        for place, row in enumerate(rows)
        for token, bias in row.options.logit_bias.items()
    ]
    places, tokens, biases = zip(*cells, strict=True)
    values = torch.tensor(biases, dtype=logits.dtype, device=logits.device)
    return logits.index_put((torch.tensor(places), torch.tensor(tokens)), values, accumulate=True)


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
    places, tokens = zip(
        *((place, token) for place, row in enumerate(rows) for token in row.banned), strict=True
    )
    return logits.index_put(
        (torch.tensor(places), torch.tensor(tokens)), torch.tensor(-torch.inf, device=logits.device)
    )


def _within_allowed(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    allowed = torch.stack([row.allowed for row in rows if row.allowed is not None])
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


def _by_option(
    name: str, neutral: float | None, change: Callable[[Logits, Tensor], Logits]
) -> _Step:
    """The step of a filter with one parameter, which does nothing where it is `neutral`."""
    return (
        lambda row: getattr(row.options, name) != neutral,
        lambda logits, rows: change(
            logits, _column([getattr(row.options, name) for row in rows], logits)
        ),
    )


_ADJUSTMENTS: tuple[_Step, ...] = (
    (lambda row: bool(row.options.logit_bias), _with_bias),
    (lambda row: row.options.repetition_penalty != 1, _with_repetition_penalty),
    (
        lambda row: row.options.presence_penalty != 0 or row.options.frequency_penalty != 0,
        _with_output_penalty,
    ),
    (lambda row: bool(row.banned), _without_banned),
    (lambda row: row.allowed is not None, _within_allowed),
)
_FILTERS: tuple[_Step, ...] = (
    _by_option("temperature", 1.0, with_temperature),
    _by_option("top_k", None, top_k),
    _by_option("top_p", 1.0, top_p),
    _by_option("min_p", 0.0, min_p),
    _by_option("typical_p", 1.0, typical_p),
)


def _exact(logits: Logits) -> Logits:
    """In float32, and where float64 exists too, which Apple's GPUs do not know."""
    return logits.to("cpu" if logits.device.type == "mps" else logits.device, torch.float32)


def _taken(logits: Logits, places: Sequence[int]) -> Logits:
    return logits if len(places) == len(logits) else logits[places]


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """One parameter for each row, [R, 1]: int64 of integers, else float32."""
    return torch.tensor(values, device=like.device)[:, None]


def _counts(texts: Iterable[Iterable[int]], like: Logits) -> Float[Tensor, "R V"]:
    """How often each id stands in each text."""
    counts = [np.bincount(np.fromiter(text, np.int64), minlength=like.shape[-1]) for text in texts]
    return torch.from_numpy(np.stack(counts)).to(like)


def _keys(values: Logits) -> Int[Tensor, "R V"]:
    """Numbers in the order of non-negative float32 values, whose bits grow with them, and of their
    ids where the values are equal.
    """
    return values.view(torch.int32).long() << 32 | torch.arange(
        values.shape[-1], device=values.device
    )


def _ids(keys: Int[Tensor, "R N"]) -> Int[Tensor, "R N"]:
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
