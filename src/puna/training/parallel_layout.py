"""The parts that the ranks of a run have in a step: sequences, and shards of the weights."""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class MeshShape:
    """Ranks as a grid: `replicas` groups, each with the whole model, of `shards` ranks, each with a
    part of it.
    """

    replicas: int
    shards: int


def mesh_shape(recipe: Recipe, ranks: int) -> MeshShape:
    """The grid of so many ranks. Raises ConfigError where they are no such grid."""
    replicas = recipe.train.replicas
    shards = ranks // (replicas or 1) if recipe.train.shards == "all" else recipe.train.shards
    replicas = ranks // shards if replicas is None else replicas
    if replicas * shards != ranks or not shards:
        raise ConfigError(
            f"{ranks} processes are no grid of train.shards {recipe.train.shards} x train.replicas"
            f" {recipe.train.replicas or 'as many as there are'}: start as many processes as their"
            " product, or say train.shards=all"
        )
    return MeshShape(replicas, shards)
