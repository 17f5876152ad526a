"""Step-time measurement on a throwaway model: the seconds of real training steps of a recipe, whose
weights are then forgotten.

It times what the trainer's step does (batch to the device, forward, backward, clip, optimizer) and
nothing of what stands around it: no log, validation or checkpoint.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from puna.device import choose_device, choose_precision, synchronise
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.training.batch_loss import batch_loss
from puna.training.optimizer import build_optimizers
from puna.training.recipe import Recipe
from puna.training.step import train_step


class StepTimer:
    """A model of a recipe with its optimizers; `seconds` takes one training step and times it.

    factor: of the learning rate; 0 costs the same and changes no weight. Usual mistake: to count
    the first step, which allocates memory, starts threads and compiles.
    """

    def __init__(self, recipe: Recipe, *, factor: float = 1.0) -> None:
        self.recipe, self.factor = recipe, factor
        self.device = choose_device(recipe.train.device)
        precision = choose_precision(recipe.train.precision, self.device)
        self.model = build_transformer(recipe.model, self.device).train()
        init_weights(self.model, recipe.seed)
        self.loss = batch_loss(self.model, recipe, self.device, precision)
        self._optimizers = build_optimizers(self.model, recipe.optimizer, self.loss.kernels)

    def seconds(self, batch: Callable[[], Int[Tensor, "B T+1"]]) -> float:
        """Seconds of one step, the call of `batch` included, until the device has done it."""
        begin = time.perf_counter()
        ids = batch().to(self.device)
        train_step(
            self.model,
            self.loss.function,
            self._optimizers,
            torch.split(ids, self.recipe.micro_batch_size),
            factor=self.factor,
            clip_norm=self.recipe.optimizer.clip_norm,
        )
        synchronise(self.device)
        return time.perf_counter() - begin


def fastest_step_seconds(
    recipe: Recipe,
    batch: Callable[[int], Int[Tensor, "B T+1"]],
    steps: int = 6,
    most_seconds: float = math.inf,
) -> float:
    """Seconds of a training step that nothing disturbs: the fastest of `steps` after a first one
    that warms up. batch: (step) -> ids. most_seconds: after so many no further step begins, except
    for the second.
    """
    timer = StepTimer(recipe)
    spent = timer.seconds(partial(batch, 0))
    fastest = math.inf
    for step in range(1, 1 + steps):
        if step > 1 and spent >= most_seconds:
            break
        seconds = timer.seconds(partial(batch, step))
        fastest, spent = min(fastest, seconds), spent + seconds
    return fastest


def random_batch(recipe: Recipe) -> Int[Tensor, "B T+1"]:
    """Random ids of the shape of a recipe's batch, on its device, the same each time: a step takes
    as long with them as with text.
    """
    shape = (recipe.train.batch_size, recipe.context_length + 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(recipe.model.vocab_size, shape, generator=generator)
    return ids.to(choose_device(recipe.train.device))
