"""Learning-rate schedules: each a pure function of progress, with warm-up in front.

A factor of 1 is the recipe's learning rate.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from puna.choices import Choice


def constant(_progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float, final_factor: float) -> float:
    """Half a cosine from 1 to `final_factor`. Source: Loshchilov & Hutter 2016, SGDR, equation 5;
    LLaMA uses 0.1.
    """
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, final_factor: float) -> float:
    """A straight line from 1 to `final_factor`. Source: Bergsma et al. 2025, Straight to Zero,
    recommends 0.
    """
    return 1 - (1 - final_factor) * progress


def wsd(progress: float, final_factor: float, decay_share: float) -> float:
    """Warm-up, stable, decay: 1 until the last part, `decay_share` of all, and there a straight
    line to `final_factor`.

    Source: Hu et al. 2024, MiniCPM, section 4; Hägele et al. 2024, section 3, find 10-20% enough.
    """
    return linear(max(0.0, (progress - (1 - decay_share)) / decay_share), final_factor)


# called with the progress, from 0 after warm-up to 1
SCHEDULES: Mapping[str, Choice] = MappingProxyType(
    {
        "cosine": Choice("", "puna.training.schedule:cosine", final_factor=0.1),
        "linear": Choice("", "puna.training.schedule:linear", final_factor=0.1),
        "wsd": Choice("", "puna.training.schedule:wsd", final_factor=0.1, decay_share=0.2),
        "constant": Choice("", "puna.training.schedule:constant"),
    }
)


def learning_rate_factor(
    step: float,
    *,
    schedule: str,
    steps: int,
    warmup: int,
    position: float | None = None,
    **options: Any,
) -> float:
    """The factor on the learning rate at `step` (from 0): (step+1)/warmup at first, then the
    schedule over the rest.

    The first update after warm-up has factor 1, the last of `steps` has the schedule's value at
    (steps-1-warmup)/(steps-warmup). position: place in the schedule in place of `step`, in steps,
    with which a warm-up that is not over rises no further than the schedule has fallen. options:
    those of the schedule. Usual mistake: a first update with learning rate 0.
    """
    place = max(0.0, (step if position is None else position) - warmup)
    factor: float = SCHEDULES[schedule].load()(place / max(1, steps - warmup), **options)
    return min(factor, (step + 1) / warmup) if step < warmup else factor
