"""How long a step takes here, found by taking a few that are then forgotten."""

import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from numpy.typing import NDArray

from puna.device import autocast, choose_device, choose_precision, synchronise
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.train.optimizer import build_optimizers
from puna.train.recipe import Recipe
from puna.train.step import train_step


def rehearse(
    recipe: Recipe, batch: Callable[[int], Int[NDArray[Any], "B T+1"]], steps: int = 6
) -> float:
    """Seconds a training step takes when nothing disturbs it: the fastest of `steps` after a first
    one that warms up.
    """
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    model = build_transformer(recipe.model, device).train()
    init_weights(model, recipe.seed)
    optimizers = build_optimizers(model, recipe.optimizer)
    seconds = []
    for step in range(1 + steps):
        begin = time.perf_counter()
        ids = torch.from_numpy(batch(step)).to(device)
        train_step(
            model,
            model.hidden_states,
            optimizers,
            torch.split(ids, recipe.micro_batch_size),
            factor=1.0,
            clip_norm=recipe.optimizer.clip_norm,
            autocast=autocast(device, precision),
        )
        synchronise(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])
