"""How long a training step of each arm takes, measured side by side: `step_times.json`.

Runs follow one another, and a machine drifts between them; so times are taken apart from the runs.
All arms stand ready in one process and take turns of a few steps, round after round: what slows the
machine in a round slows all arms of that round, and the ratio of two arms in one round is free of
it. Arms with the same model, batch and optimizer are timed once.

The learning rate is 0, so that a step costs what it costs and changes nothing. Not counted: reading
the batch, logging, validation.
"""

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch._dynamo

from puna.device import choose_device, processor_name, watch_others
from puna.study.definition import Arm
from puna.train.recipe import Recipe
from puna.train.step_time import StepTimer, random_batch

FILE = "step_times.json"
ROUNDS = 15
STEPS = 2  # a turn
WARM_UP = 3

Mode = Literal["eager", "compiled"]


def measure_step_times(
    arms: Mapping[str, Arm], modes: Sequence[Mode], rounds: int = ROUNDS
) -> dict[str, Any]:
    """What `step_times.json` holds: the machine, and by mode and arm the milliseconds of a step,
    one number a round.

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
            name: StepTimer(arms[name].recipe, compiled=mode == "compiled", factor=0.0)
            for name in measured
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
