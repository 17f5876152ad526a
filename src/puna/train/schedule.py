"""Learning-rate schedules: each a pure function of progress, with warm-up in front.

A factor of 1 is the recipe's learning rate.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType


def constant(_progress: float, _final: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float, final: float) -> float:
    """Half a cosine from 1 to `final`. Source: Loshchilov & Hutter 2016, SGDR, equation 5; LLaMA
    uses final = 0.1.
    """
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, final: float) -> float:
    """A straight line from 1 to `final`. Source: Bergsma et al. 2025, Straight to Zero, recommends
    final = 0.
    """
    return 1 - (1 - final) * progress


DECAY = 0.2  # the last part of a WSD schedule; Hägele et al. 2024, section 3, find 10-20% enough


def wsd(progress: float, final: float) -> float:
    """Warm-up, stable, decay: 1 until the last fifth, then a straight line to `final`. Source: Hu
    et al. 2024, MiniCPM, section 4.
    """
    return linear(max(0.0, (progress - (1 - DECAY)) / DECAY), final)


SCHEDULES: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {"cosine": cosine, "linear": linear, "wsd": wsd, "constant": constant}
)


def learning_rate_factor(
    step: int, *, schedule: str, steps: int, warmup: int, final: float
) -> float:
    """What to multiply the learning rate with at `step` (from 0): (step+1)/warmup at first, then
    the schedule over the rest.

    The first update after warm-up has factor 1, the last of `steps` has the schedule's value at
    (steps-1-warmup)/(steps-warmup). Usual mistake: a first update with learning rate 0.
    """
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup), final)
