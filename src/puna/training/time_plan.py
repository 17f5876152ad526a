"""Plan of a run with a time budget (`train.minutes`): the number of steps that fit, decided anew
before every step, and the place in the schedule that belongs to it.

The budget covers baselines, training steps, validations and checkpoints, and keeps time for what
follows the last step. The recipe's `train.steps` is the most that a run may take. Its schedule is
walked through whole, whatever the number of steps: of the way that is left, each step goes the
share that it is of the steps that are left. So the learning rate has no jump when the plan
changes, a decay is walked down to its end, and no part of a schedule needs to be known here.

A plan depends on the clock, so it is part of every checkpoint: a resumed run keeps what was
decided, and decides from what the saved run knew.
"""

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import Self

from puna.training.recipe import Recipe

WARM_DOWN = 10  # steps that a cut leaves, so that the rate falls in steps and not at once
LEAST_WARM_DOWN = 4  # of them, where not even so many end within `OVERRUN`
OVERRUN = 1.1  # of the budget, which the steps of the warm-down may take
STEADY = 0.1  # of the steps left: a smaller change is noise of the clock
END = 4  # validations that what follows the last step takes: one, the measurement, samples, page
FORWARD = 0.5  # of a training step's time, for as many tokens; of its FLOPs it is a third
KNOWN = 3  # steps after which there is a pace
LATEST, MEMORY = 5, 20  # steps whose seconds give the pace


def pace(recent: tuple[float, ...]) -> float | None:
    """Seconds that the next steps will take each, from those of the latest, oldest first; None
    before `KNOWN` of them.

    The larger of the median of the last 5, which follows a machine that becomes slower within 3
    steps, and the mean of the last 20 without the longest, which counts that some steps take longer
    than others. One step that hangs moves neither.
    """
    if len(recent) < KNOWN:
        return None
    return max(median(recent[-LATEST:]), (sum(recent) - max(recent)) / (len(recent) - 1))


def planned_steps(
    done: int, spent: float, pace: float, *, budget: float, present: int, most: int
) -> int:
    """Steps that a run will have when it ends: more than `done`, at most `most`.

    spent, budget: seconds, what follows the last step included. pace: seconds a step. present: the
    plan so far, which stays unless the steps left change by more than a tenth.

    A cut leaves some steps for the warm-down even where the budget is spent. A plan is lengthened
    too, up to `most`: otherwise a machine that was busy for a moment would end the run early.
    """
    left = present - done
    fitting = math.floor((budget - spent) / pace)
    if abs(fitting - left) <= STEADY * left:
        return present
    if fitting < left:
        tolerated = math.floor((OVERRUN * budget - spent) / pace)
        warm_down = max(LEAST_WARM_DOWN, min(WARM_DOWN, tolerated))
        fitting = max(fitting, min(left, warm_down))
    return min(done + fitting, most)


@dataclass(frozen=True)
class TimePlan:
    """Present plan of a run with a time budget, and what the next decision follows from.

    budget: seconds, all of the run. most: the recipe's `train.steps`. steps: that the run will have
    when it ends. position: place in the recipe's schedule, in its steps. validation: the time that
    one takes, in steps. recent: seconds of the latest steps, oldest first. beside: seconds of
    baselines, validations and checkpoints.
    """

    budget: float
    most: int
    steps: int
    position: float
    validation: float
    recent: tuple[float, ...] = ()
    beside: float = 0.0

    def decided(self, done: int, seconds: float, validate_every: int) -> Self:
        """The plan before the step after `done`, of a run that spent `seconds` in steps."""
        if (now := pace(self.recent)) is None:
            return self
        steps = planned_steps(
            done,
            seconds + self.beside + END * self.validation * now,
            now * (1 + self.validation / validate_every),
            budget=self.budget,
            present=self.steps,
            most=self.most,
        )
        return replace(self, steps=steps)

    def stepped(self, done: int, seconds: float) -> Self:
        """The plan after the step after `done`, which took `seconds`."""
        way = (self.most - self.position) / (self.steps - done)
        recent = (*self.recent, seconds)[-MEMORY:]
        return replace(self, position=self.position + way, recent=recent)

    def spent(self, seconds: float) -> Self:
        """The plan after a checkpoint or baselines that took `seconds`."""
        return replace(self, beside=self.beside + seconds)

    def validated(self, seconds: float) -> Self:
        """The plan after a validation that took `seconds`."""
        now = pace(self.recent)
        validation = seconds / now if now else self.validation
        return replace(self, beside=self.beside + seconds, validation=validation)


def plan_for(
    recipe: Recipe, validation_tokens: int, done: int = 0, saved: TimePlan | None = None
) -> TimePlan | None:
    """The plan of a run of this recipe that has done so many steps; None without `train.minutes`.

    validation_tokens: of a validation, which gives its time before one was measured. saved: the
    plan of a checkpoint, which goes on where it was made for the same minutes and steps. Otherwise
    the schedule goes on at the step reached, as where a resume changes `train.steps`.
    """
    train = recipe.train
    if train.minutes is None:
        return None
    budget = 60 * train.minutes
    if saved and (saved.budget, saved.most) == (budget, train.steps):
        return saved
    return TimePlan(
        budget=budget,
        most=train.steps,
        steps=train.steps,
        position=float(done),
        validation=FORWARD * validation_tokens / recipe.tokens_per_step,
        beside=saved.beside if saved else 0.0,
    )
