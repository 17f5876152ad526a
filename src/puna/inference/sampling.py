"""From logits to the next token: pure functions, composed.

Each function maps float32 logits [B, V] to logits, with -inf for what it rules out, so they chain in any order; `sample` applies the
customary one (penalty, temperature, top-k, top-p, min-p), which is that of transformers' generate.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.inference.request import GenerationOptions

Logits = Float[Tensor, "B V"]


def repetition_penalty(logits: Logits, seen: Int[Tensor, "B T"], penalty: float) -> Logits:
    """Divide the positive logits of tokens already seen by `penalty`, multiply the negative ones.

    Source: Keskar et al. 2019, CTRL, section 4.1, with the sign rule of transformers.
    Usual mistake: dividing negative logits too, which makes repeats likelier.
    """
    scores = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(scores > 0, scores / penalty, scores * penalty))


def top_k(logits: Logits, k: int) -> Logits:
    """Keep the k likeliest tokens, and any that tie with the last of them. Source: Fan et al. 2018, section 5.2."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Logits, p: float) -> Logits:
    """Keep the fewest likeliest tokens whose probabilities add up to at least p. Source: Holtzman et al. 2019, section 3.1.

    Usual mistake: dropping the token that crosses p, which leaves nothing when the likeliest alone exceeds it.
    """
    ordered, indices = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens
    ordered = ordered.masked_fill(before >= p, -torch.inf)
    return torch.empty_like(logits).scatter(1, indices, ordered)


def min_p(logits: Logits, fraction: float) -> Logits:
    """Keep tokens with at least `fraction` of the likeliest token's probability. Source: Nguyen et al. 2024, section 3."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < fraction * probabilities.max(-1, keepdim=True).values, -torch.inf)


def adjusted_logits(logits: Logits, seen: Int[Tensor, "B T"], options: GenerationOptions) -> Logits:
    """The logits to sample from, float32; with temperature 0 everything but the penalty is left out."""
    logits = logits.float()
    if options.repetition_penalty != 1.0:
        logits = repetition_penalty(logits, seen, options.repetition_penalty)
    if options.temperature == 0:
        return logits
    logits = logits / options.temperature
    if options.top_k is not None:
        logits = top_k(logits, options.top_k)
    if options.top_p < 1.0:
        logits = top_p(logits, options.top_p)
    if options.min_p > 0.0:
        logits = min_p(logits, options.min_p)
    return logits


def sample(logits: Logits, seen: Int[Tensor, "B T"], options: GenerationOptions, generators: Sequence[torch.Generator]) -> Int[Tensor, "B"]:
    """One token for each row, drawn by the row's own generator, so that a row's text does not depend on its neighbours."""
    logits = adjusted_logits(logits, seen, options)
    if options.temperature == 0:
        return logits.argmax(-1)
    probabilities = logits.softmax(-1)
    draws = [torch.multinomial(row, 1, generator=generator) for row, generator in zip(probabilities, generators, strict=True)]
    return torch.cat(draws)
