"""`step_times.json`: the time of a training step of each arm, measured side by side, and read back.

Runs follow one another, and a machine drifts between them; so times are taken apart from the runs.
All arms stand ready in one process and take turns of a few steps, round after round: what slows the
machine in a round slows all arms of that round, and the ratio of two arms in one round is free of
it. Arms with the same model, batch and optimizer are timed once.

The learning rate is 0, so that a step costs what it costs and changes nothing. Not counted: reading
the batch, logging, validation.
"""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from puna.device import choose_device, processor_name, watch_others
from puna.errors import DataError
from puna.study.arms import Arm
from puna.training.recipe import Recipe
from puna.training.step_time import StepTimer, random_batch

FILE = "step_times.json"
ROUNDS = 15
STEPS = 2  # a turn
WARM_UP = 3

Mode = Literal["eager", "compiled"]


class Spread(NamedTuple):
    """A median, and the range of the middle half around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Spread":
        """The spread of any number of values, with linear interpolation between them."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class StepTimes:
    """The machine, and by mode and arm the milliseconds of a step, one number a round.

    others: cores that other programs took meanwhile, None where that is not known.
    """

    processor: str
    cores: int
    threads: int
    torch: str
    date: str
    others: float | None
    rounds: int
    modes: Mapping[str, Mapping[str, Sequence[float]]]

    def milliseconds(self, mode: str, arm: str) -> Spread | None:
        """The time of a step over the rounds; None where the arm was not timed."""
        rounds = self.modes.get(mode, {}).get(arm)
        return Spread.of(rounds) if rounds else None

    def ratio(self, mode: str, arm: str, baseline: str) -> Spread | None:
        """The arm's step time to the baseline's in the same round, over the rounds: free of what
        slows a whole round down. None where either was not timed.
        """
        ours, theirs = (self.modes.get(mode, {}).get(name) for name in (arm, baseline))
        if not ours or not theirs or len(ours) != len(theirs):
            return None
        return Spread.of(np.divide(ours, theirs))


def read_step_times(folder: Path) -> StepTimes | None:
    """The step times of a study, None where they were not measured. Raises DataError for a damaged
    file.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = {
            field.name: found[field.name] for field in fields(StepTimes) if field.name != "modes"
        }
        modes = {mode: found[mode] for mode in get_args(Mode) if mode in found}
        return StepTimes(
            **machine,
            modes={
                mode: {arm: tuple(map(float, ms)) for arm, ms in arms.items()}
                for mode, arms in modes.items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold step times ({error!r}): delete it, and measure them again with"
            " puna study time"
        ) from error


def measure_step_times(
    arms: Mapping[str, Arm], modes: Sequence[Mode], rounds: int = ROUNDS
) -> dict[str, Any]:
    """The content of `step_times.json`: the machine, and by mode and arm the milliseconds of a
    step, one number a round.

    Takes rounds x arms x `STEPS` steps a mode; compiling takes about half a minute an arm on a CPU.
    Meant for a process of its own, on a machine with nothing else to do; `others` says how many
    cores other programs took meanwhile.
    """
    others = watch_others()
    times: dict[str, Any] = {mode: _by_arm(arms, mode, rounds) for mode in modes}
    device = choose_device(next(iter(arms.values())).recipe.train.device)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": (
            torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
        ),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "others": others(),
        "rounds": rounds,
        **times,
    }


def _by_arm(arms: Mapping[str, Arm], mode: Mode, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a step, by arm; arms that cost the same by construction share theirs."""
    import torch._dynamo  # a second, which reading step times need not spend

    torch._dynamo.reset()
    twins = {name: _what_costs(arm.recipe) for name, arm in arms.items()}
    first = {cost: name for name, cost in reversed(twins.items())}
    measured: dict[str, list[float]] = {name: [] for name in first.values()}
    # each arm compiles the same function anew: beyond the limit PyTorch would go on uncompiled and
    # say nothing
    with torch._dynamo.config.patch(
        recompile_limit=len(first) + 8, fail_on_recompile_limit_hit=True
    ):
        timers = {
            name: StepTimer(_in_mode(arms[name].recipe, mode), factor=0.0) for name in measured
        }
        batches = {name: random_batch(arms[name].recipe) for name in measured}

        def turn(name: str, steps: int) -> float:
            return sum(timers[name].seconds(lambda: batches[name]) for _ in range(steps))

        for name in measured:
            turn(name, WARM_UP)
        order = list(measured)
        for number in range(rounds):
            # each round begins with another arm, so that none is always the first or the last
            first_arm = number % len(order)
            for name in order[first_arm:] + order[:first_arm]:
                measured[name].append(round(1000 * turn(name, STEPS) / STEPS, 3))
    return {name: measured[first[cost]] for name, cost in twins.items()}


def _in_mode(recipe: Recipe, mode: Mode) -> Recipe:
    """The recipe on PyTorch: the native core has kernels for some arms and not for others, and the
    ratio of two would say so and nothing of the arms.
    """
    train = {"compile": mode == "compiled", "isa": "torch"}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})


def _what_costs(recipe: Recipe) -> str:
    """The part of a recipe on which the time of a step depends."""
    return str(
        (
            recipe.model,
            recipe.optimizer.name,
            recipe.micro_batch_size,
            recipe.tokens_per_step,
            recipe.train.precision,
        )
    )
