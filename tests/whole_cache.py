"""A model with a paged cache, as tests of other parts want it: equally long sequences of ids, given
piece by piece.
"""

from jaxtyping import Float, Int
from torch import Tensor, randperm, tensor

from puna.inference.kv_cache import PagedCache, Run
from puna.model.transformer import Transformer


class CachedModel:
    """Call it with the next ids [B, T] of `batch` sequences of up to `capacity` tokens for their
    logits [B, T, V].

    The sequences' blocks lie anywhere in memory, each step starts where the one before it ended,
    and nothing is computed twice.
    """

    def __init__(self, model: Transformer, batch: int, capacity: int, block_size: int = 4) -> None:
        each = -(-capacity // block_size)
        self.tables: list[list[int]] = randperm(batch * each).view(batch, each).tolist()
        self.cache = PagedCache(
            model.config, batch * each, block_size, dtype=model.output_weight.dtype
        )
        self.model, self.length = model, 0

    def __call__(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        batch, steps = ids.shape
        step = self.cache.step([Run(self.length, steps, table) for table in self.tables])
        positions = tensor([*range(self.length, self.length + steps)] * batch)
        self.length += steps
        return self.model(ids.reshape(1, -1), positions, step).view(batch, steps, -1)
