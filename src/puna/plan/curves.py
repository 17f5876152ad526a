"""The curves behind a plan, as numbers: equal loss, and what a life costs along it. Drawing is the
report's.

N runs evenly in logarithms, to `MOST_PARAMETERS` times those of the chosen point and down to where
a curve needs `MOST_TOKENS` times its tokens; below that the curve only rises.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.plan.cost import Training
from puna.plan.scaling import ScalingLaw

MOST_TOKENS = 30.0
MOST_PARAMETERS = 10.0
POINTS = 160


class Curve(NamedTuple):
    """values over parameters, and the point of the curve that a plan would choose. level: what is
    equal along it.
    """

    level: float
    parameters: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    chosen: tuple[float, float]


def equal_loss(law: ScalingLaw, losses: Sequence[float]) -> list[Curve]:
    """For each loss the tokens over the parameters that reach it together; chosen is what takes the
    least training.
    """
    curves = []
    for loss in losses:
        chosen = law.cheapest_at(loss)
        parameters = _grid(law, loss, [chosen])
        tokens = np.array([law.tokens_for(loss, number) for number in parameters])
        curves.append(Curve(loss, parameters, tokens, (chosen.parameters, chosen.tokens)))
    return curves


def lifetime_cost(law: ScalingLaw, loss: float, inference_tokens: Sequence[float]) -> list[Curve]:
    """For each number of inference tokens the FLOPs of a life over the parameters, at one loss;
    chosen is the cheapest.
    """
    best = [law.lifetime_optimum(loss, served) for served in inference_tokens]
    parameters = _grid(law, loss, best)
    runs = [Training(number, law.tokens_for(loss, number)) for number in parameters]
    return [
        Curve(
            served,
            parameters,
            np.array([run.lifetime_flops(served) for run in runs]),
            (chosen.parameters, chosen.lifetime_flops(served)),
        )
        for served, chosen in zip(inference_tokens, best, strict=True)
    ]


def _grid(law: ScalingLaw, loss: float, chosen: Sequence[Training]) -> npt.NDArray[np.float64]:
    most_tokens = MOST_TOKENS * max(training.tokens for training in chosen)
    fewest = (law.A / (loss - law.E - law.B / most_tokens**law.beta)) ** (1 / law.alpha)
    return np.geomspace(
        fewest, MOST_PARAMETERS * max(training.parameters for training in chosen), POINTS
    )
