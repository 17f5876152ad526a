"""The executor in PyTorch, on any device, for every model."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, groupby

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from puna.inference.executor import ScheduledChunk, StepOutput
from puna.inference.kv_cache import PagedCache, Run
from puna.model.adapters import Adapters
from puna.model.transformer import Transformer


class TorchExecutor:
    """An `Executor` that runs the model in PyTorch, on the device and in the dtype of its weights.

    vocab_size: the ids that have a text, which may be fewer than the model has rows for; logits are
    computed for no other.

    batch_invariant: compute every token by itself, with shapes that depend on its own position
    alone. A row of logits is then the same to the last bit whatever else the step computes,
    wherever a prompt is cut and whether its prefix was in the cache already. It costs a forward
    pass for each token of the prompt. Sums of hidden states still depend on the cuts, in their last
    bits.

    int8_cache: keys and values in int8, with a scale for each token and head.

    adapters: those attached to the model, which between steps is left as it is without them.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        num_blocks: int,
        block_size: int = 16,
        vocab_size: int | None = None,
        batch_invariant: bool = False,
        int8_cache: bool = False,
        adapters: Adapters | None = None,
    ) -> None:
        weight = model.output_weight
        self.vocab_size = model.config.vocab_size if vocab_size is None else vocab_size
        self.context_length = model.config.context_length
        self.num_blocks, self.block_size = num_blocks, block_size
        self.adapters: Collection[str] = () if adapters is None else adapters.names
        self._model, self._attached = model, adapters
        self._batch_invariant = batch_invariant
        self._cache = PagedCache(
            model.config,
            num_blocks,
            block_size,
            weight.device,
            weight.dtype,
            int8_cache=int8_cache,
            copies=batch_invariant,
        )

    @torch.inference_mode()
    def run(self, chunks: Sequence[ScheduledChunk]) -> StepOutput:
        """As `Executor.run`."""
        for chunk in chunks:
            assert chunk.adapter is None or chunk.adapter in self.adapters, (
                f"there is no adapter {chunk.adapter!r}"
            )
            assert 0 <= chunk.rows <= len(chunk.ids), f"{chunk.rows} rows of {len(chunk.ids)} ids"
        return self._run_singly(chunks) if self._batch_invariant else self._run_together(chunks)

    def _run_together(self, chunks: Sequence[ScheduledChunk]) -> StepOutput:
        # Computed in this order, answered in the caller's: `ends` says where each chunk stops in
        # the flattened step
        order = sorted(range(len(chunks)), key=lambda index: _likeness(chunks[index]))
        hidden = self._hidden_states([chunks[index] for index in order])
        ends = dict(zip(order, accumulate(len(chunks[index].ids) for index in order), strict=True))
        wanted = [
            row
            for index, chunk in enumerate(chunks)
            for row in range(ends[index] - chunk.rows, ends[index])
        ]
        # Views: nothing is copied for a chunk that wants no sum
        own = [
            hidden[ends[index] - len(chunk.ids) : ends[index]] if chunk.pooled else None
            for index, chunk in enumerate(chunks)
        ]
        # Only the wanted rows: with V rows the output matrix is the largest of all
        logits = self._logits(
            hidden.index_select(0, torch.tensor(wanted, dtype=torch.long, device=hidden.device))
        )
        return StepOutput(
            logits, [None if states is None else states.float().sum(0) for states in own]
        )

    def _run_singly(self, chunks: Sequence[ScheduledChunk]) -> StepOutput:
        logits: list[Tensor] = []
        pooled: list[Tensor | None] = []
        # in this order: what a chunk shares with another one was computed by one before it
        for chunk in chunks:
            states = [
                self._hidden_states([replace(chunk, ids=[token], start=chunk.start + index)])
                for index, token in enumerate(chunk.ids)
            ]
            logits += [self._logits(state) for state in states[len(states) - chunk.rows :]]
            pooled.append(torch.cat(states).float().sum(0) if chunk.pooled else None)
        return StepOutput(
            (
                torch.cat(logits)
                if logits
                else self._model.output_weight.new_empty(0, self.vocab_size).float()
            ),
            pooled,
        )

    def _hidden_states(self, chunks: Sequence[ScheduledChunk]) -> Float[Tensor, "N D"]:
        """Of all ids in this order, after writing their keys and values into the cache."""
        device = self._model.output_weight.device
        ids = torch.tensor([[token for chunk in chunks for token in chunk.ids]], device=device)
        positions = torch.tensor(
            [chunk.start + index for chunk in chunks for index in range(len(chunk.ids))],
            device=device,
        )
        cache = self._cache.step(
            [Run(chunk.start, len(chunk.ids), chunk.blocks) for chunk in chunks]
        )
        with self._selected(chunks):
            return self._model.hidden_states(ids, positions, cache)[0]

    @contextmanager
    def _selected(self, chunks: Sequence[ScheduledChunk]) -> Iterator[None]:
        """Each chunk's tokens through its adapter; neighbours of one adapter as one segment."""
        if self._attached is None:
            yield
            return
        # Neighbours, not all of an adapter: `groupby` relies on the order by `_likeness`
        segments, token = [], 0
        for adapter, members in groupby(chunks, key=lambda chunk: chunk.adapter):
            count = sum(len(chunk.ids) for chunk in members)
            segments.append((adapter, token, token + count))
            token += count
        self._attached.select(segments)
        try:
            yield
        finally:  # after an error too, the model is as it is without adapters
            self._attached.select([])

    def _logits(self, states: Float[Tensor, "R D"]) -> Float[Tensor, "R V"]:
        return F.linear(states, self._model.output_weight[: self.vocab_size]).float()


def _likeness(chunk: ScheduledChunk) -> tuple[str, int, int]:
    """Chunks sorted by this stand together where they share an adapter, and then where they share a
    call of attention.
    """
    return chunk.adapter or "", len(chunk.ids), chunk.start
