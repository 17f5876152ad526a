"""The parts that the ranks of a run have in a step: sequences, and shards of the weights."""

import math

from puna.errors import ConfigError
from puna.training.recipe import Recipe


def micro_batches(recipe: Recipe, ranks: int) -> int:
    """Micro-batches of a step on each of so many ranks, whose parts of the batch differ by a
    sequence at most. Raises ConfigError where one of them would have an empty one.
    """
    batch, size = recipe.train.batch_size, recipe.micro_batch_size
    number = math.ceil(math.ceil(batch / ranks) / size)
    if number > batch // ranks:
        raise ConfigError(
            f"{ranks} processes cannot share train.batch_size {batch} in micro-batches of {size}:"
            f" make it a multiple of {ranks}, or start fewer processes"
        )
    return number
