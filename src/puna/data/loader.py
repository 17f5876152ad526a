"""Batches of token windows: for any step and rank, from any moment on, without a state.

What it is not: no worker processes, no queue. A batch is read from memory-mapped shards in well
under a millisecond a megabyte, which a training step does not notice, and there is nothing to save:
a resumed run asks for its next step.

Cost: 0.3 ms a source and batch for the order, then a copy of the tokens.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from puna.data.mixture import Mixture
from puna.data.shards import TokenStream
from puna.errors import DataError


class Loader:
    """The training batches of a mixture; a pure function of its constructor's numbers and the
    step.
    """

    def __init__(
        self,
        streams: Mapping[str, TokenStream],
        weights: Mapping[str, float],
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Mix `streams` by `weights` (relative shares of samples; see `Mixture`).

        context_length: T, inputs a window. batch_size: windows a step, all ranks together, so that
        the order does not depend on how many ranks share it. rank, world_size: which part of each
        step this process takes; parts differ by a window at most. Raises DataError for a batch of
        fewer windows than ranks, for sources made with different tokenizers, and for what `Mixture`
        rejects: bad weights, and a source shorter than one window.
        """
        if context_length < 1 or batch_size < 1:
            raise DataError(
                f"a batch of {batch_size} windows of {context_length} tokens is empty; both are at"
                " least 1"
            )
        if not 0 <= rank < world_size <= batch_size:
            raise DataError(
                f"rank {rank} of {world_size} cannot take a share of {batch_size} windows: each of"
                " the ranks, counted from 0, needs one; make train.batch_size larger, or start"
                " fewer processes"
            )
        tokenizers = {
            name: stream.manifest.inputs.tokenizer_hash[:12] for name, stream in streams.items()
        }
        if len(set(tokenizers.values())) > 1:
            raise DataError(
                f"the sources have different tokenizers, {tokenizers}; prepare them again with one"
            )
        num_tokens = {name: stream.num_tokens for name, stream in streams.items()}
        self.mixture = Mixture(weights, num_tokens, context_length, seed)
        self._streams = [streams[name] for name in self.mixture.names]
        self._context_length = context_length
        self._batch_size = batch_size
        self._first, end = (batch_size * number // world_size for number in (rank, rank + 1))
        self._share = end - self._first

    def batch(self, step: int) -> Int64[np.ndarray, "B T_plus_1"]:
        """This rank's windows of a step: inputs are [:, :-1], targets [:, 1:].

        All ranks' batches, one below the other in the order of ranks, are the same for every world
        size.
        """
        begin = step * self._batch_size + self._first
        samples = self.mixture.samples(np.arange(begin, begin + self._share, dtype=np.int64))
        windows = np.empty((self._share, self._context_length + 1), dtype=np.int64)
        for row, (source, window) in enumerate(
            zip(samples.source.tolist(), samples.window.tolist(), strict=True)
        ):
            windows[row] = self._streams[source].read(
                window * self._context_length, self._context_length + 1
            )
        return windows
