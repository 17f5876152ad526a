"""A paged key/value cache and attention over it: fixed memory, cut into blocks that sequences hold
in any order.

Allocation and eviction of blocks are elsewhere (block_pool.py); here a sequence is a list of block
numbers. Token p of a sequence lies in the slot p % block_size of its block p // block_size. Memory
is taken once: 2 L K C elements for each slot, and in int8 2 L K scales.

A step adds runs of tokens of several sequences, flattened into one row. What all layers share,
namely slots and masks, is made once a step, in numpy, whose calls cost less than PyTorch's for so
few numbers. Each layer writes all new keys and values before it reads any, so a run may read what
another one of the same step writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from puna.inference.input_cache import Windows
from puna.inference.stored_heads import Int8Heads, PlainHeads, StoredHeads
from puna.model.builders import build_slopes
from puna.model.config import ModelConfig
from puna.nn.attention import causal_attention

# Keys that a group of sequences copies at most, so that the copies stay in a core's second-level
# cache: 64 sequences of 400 tokens of width 256 in float32 took 7.5 ms a layer in groups of up to 1
# MiB, and 32 ms in a single one (a core of an AMD EPYC, which has 1 MiB)
COPIED_BYTES = 2**20
# Keys of padding in a group that cost about as much as one more group does
PADDING_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Run:
    """The next tokens of one sequence: `count` of them from position `start`. blocks: the
    sequence's, in order, these tokens' included.
    """

    start: int
    count: int
    blocks: Sequence[int]

    @property
    def end(self) -> int:
        """The sequence's length with these tokens."""
        return self.start + self.count


class PagedCache:
    """Keys and values of all layers, each [num_blocks, block_size, K, C], uninitialised until
    written.

    int8_cache: keys and values as int8 codes, with float32 scales [num_blocks, block_size, K]; the
    arithmetic is that of `dtype`.

    copies: always copy what attention reads, even where it lies in one piece. Results then do not
    depend on where a sequence's blocks are, to the last bit.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        int8_cache: bool = False,
        copies: bool = False,
    ) -> None:
        kept = torch.int8 if int8_cache else dtype
        shape = (num_blocks, block_size, config.cached_heads, config.head_width)
        self.keys = [
            torch.empty(shape, device=device, dtype=kept) for _ in range(config.num_layers)
        ]
        self.values = [
            torch.empty(shape, device=device, dtype=kept) for _ in range(config.num_layers)
        ]
        # of each layer's keys and values
        self.scales = [
            (torch.empty(shape[:3], device=device), torch.empty(shape[:3], device=device))
            for _ in range(config.num_layers if int8_cache else 0)
        ]
        # of the feed-forward layers, where these look back
        self.inputs = [
            torch.empty((num_blocks, block_size, config.width), device=device, dtype=dtype)
            for _ in range(config.num_layers if config.lookback else 0)
        ]
        self._kernel = config.lookback + 1
        self.num_blocks, self.block_size, self.copies = num_blocks, block_size, copies
        self._window = config.sliding_window
        slopes = build_slopes(config)
        self._slopes = None if slopes is None else slopes.numpy()
        self._device = torch.device(device)
        # of attention: PyTorch's kernel for CPUs took three times as long for one bfloat16 query as
        # copies in float32 and their attention
        self._dtype = (
            torch.promote_types(dtype, torch.float32) if self._device.type == "cpu" else dtype
        )
        self._token_bytes = config.cached_heads * config.head_width * self._dtype.itemsize

    def step(self, runs: Sequence[Run]) -> "list[LayerCache]":
        """The `cache` that `Transformer.hidden_states` takes for these runs' tokens, flattened in
        this order into ids [1, N]; use it once.

        Neighbouring runs of one count and of like lengths are attended to together, so sort them.
        No two runs may write one slot.
        """
        assert runs, "a step computes something"
        for run in runs:
            assert 0 <= run.start < run.end <= len(run.blocks) * self.block_size, (
                f"{run} lacks tokens or blocks"
            )
        # `token` counts through the flattened step, so that groups cover it without a gap
        groups: list[Group] = []
        written: list[NDArray[np.int64]] = []
        token = 0
        for members in self._grouped(runs):
            group, slots = self._group(members, token)
            groups.append(group)
            written += slots
            token = group.tokens.stop
        new = self._contiguous(np.concatenate(written))
        layers = [
            LayerCache(*self._heads(layer), new, groups, self._dtype)
            for layer in range(len(self.keys))
        ]
        if self.inputs:
            seen = Windows.of(runs, self.block_size, self._kernel, self._device)
            for layer, inputs in zip(layers, self.inputs, strict=True):
                layer.inputs, layer.seen = inputs.flatten(0, 1), seen
        return layers

    def _heads(self, layer: int) -> tuple[StoredHeads, StoredHeads]:
        """A layer's keys and values by slot."""
        keys, values = self.keys[layer].flatten(0, 1), self.values[layer].flatten(0, 1)
        if not self.scales:
            return PlainHeads(keys), PlainHeads(values)
        of_keys, of_values = (scales.flatten(0, 1) for scales in self.scales[layer])
        return Int8Heads(keys, of_keys), Int8Heads(values, of_values)

    def _skipped(self, run: Run) -> int:
        """Number of the run's blocks before all that its queries see."""
        return (
            0 if self._window is None else max(0, run.start - self._window + 1) // self.block_size
        )

    def _read(self, run: Run) -> int:
        """Number of positions of the run's sequence, its last ones, that attention reads."""
        return run.end - self._skipped(run) * self.block_size

    def _grouped(self, runs: Sequence[Run]) -> Iterator[list[Run]]:
        """Neighbours in groups, so that neither the copies nor the padding of one grow large."""
        group: list[Run] = []
        longest = total = 0  # of the positions that the group reads
        for run in runs:
            length = self._read(run)
            # Positions that the group would copy: every row as long as its longest run
            padded = (len(group) + 1) * max(longest, length)
            if group and (
                run.count != group[0].count
                or padded * self._token_bytes > COPIED_BYTES
                or (padded - total - length) * self._token_bytes > PADDING_BYTES
            ):
                yield group
                group, longest, total = [], 0, 0
            group.append(run)
            longest, total = max(longest, length), total + length
        yield group

    def _group(self, runs: list[Run], token: int) -> "tuple[Group, list[NDArray[np.int64]]]":
        """These runs, all of one count, as a group, and the slots of each one's new tokens; the
        first has number `token` in the step.
        """
        # Each run's positions stand at the left of its row, its new tokens as their last ones; so
        # one mask of distances serves runs of unequal length
        steps, lengths = runs[0].count, [self._read(run) for run in runs]
        longest = max(lengths)
        slots = self._slots(runs)[:, :longest]
        written = []
        for row, length in zip(slots, lengths, strict=True):
            written.append(row[length - steps : length])
            # padding is its own last token, never what another sequence left behind
            row[length:] = row[length - 1]
        # The kernels' own causal rule is enough for equal lengths where the queries are all
        # positions or the last one alone; a window or ALiBi's bias needs a mask
        narrow = self._window is not None and self._window < longest
        plain = (
            min(lengths) == longest
            and not narrow
            and self._slopes is None
            and steps in (1, longest)
        )
        read = self._tensor(slots.flatten()) if self.copies else self._contiguous(slots.flatten())
        mask = None if plain else self._mask(lengths, steps, longest)
        return Group(slice(token, token + len(runs) * steps), len(runs), read, mask), written

    def _slots(self, runs: list[Run]) -> NDArray[np.int64]:
        """[G, blocks * block_size]: the slots of each run's positions, from the first block that
        its queries see; then any.
        """
        tables = [run.blocks[self._skipped(run) : -(-run.end // self.block_size)] for run in runs]
        width = max(map(len, tables))
        # Filled up with block 0: `_group` writes over what lies beyond a run's own positions
        blocks = np.array(
            [[*table, *[0] * (width - len(table))] for table in tables], dtype=np.int64
        )
        return (blocks[:, :, None] * self.block_size + np.arange(self.block_size)).reshape(
            len(runs), -1
        )

    def _mask(self, lengths: list[int], steps: int, longest: int) -> Float[Tensor, "G _ _ S"]:
        """Mask added to the scores of each run's queries, which are the last of its positions: [G,
        1 or H, T, S].

        Padding is later than all queries, so the causal rule hides it. For one query the heads
        stand as `Group.attend` wants them.
        """
        queries = (
            np.array(lengths, dtype=np.float32)[:, None]
            - steps
            + np.arange(steps, dtype=np.float32)
        )
        # Positions are counted from the first one read; only differences matter, [G, 1, T, S]
        distance = (queries[:, :, None] - np.arange(longest, dtype=np.float32))[:, None]
        visible = distance >= 0
        if self._window is not None:
            visible &= distance < self._window
        bias = np.float32(0) if self._slopes is None else -self._slopes[:, None, None] * distance
        mask = self._tensor(np.where(visible, bias, np.float32(-np.inf))).to(self._dtype)
        return (
            mask.view(len(lengths), self.keys[0].shape[2], -1, longest)
            if steps == 1 and self._slopes is not None
            else mask
        )

    def _contiguous(self, slots: NDArray[np.int64]) -> slice | Tensor:
        """As a slice if they lie one after the other, which is then read without a copy."""
        first, last = int(slots[0]), int(slots[-1])
        if last - first == len(slots) - 1 and bool((slots[1:] > slots[:-1]).all()):
            return slice(first, last + 1)
        return self._tensor(slots)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


@dataclass(frozen=True, slots=True)
class Group:
    """G runs of T tokens that are attended to in one call, on S positions each: what all layers
    share.
    """

    tokens: slice
    """The runs' G T tokens in the flattened step."""
    runs: int
    """G."""
    read: slice | Int[Tensor, "G*S"]
    """The slots of the positions that the queries see, and of some padding where one sequence is
    shorter than another.
    """
    mask: Float[Tensor, "G _ _ S"] | None
    """Added to the scores; None where there is no padding and the causal rule says it all."""

    def attend(
        self,
        q: Float[Tensor, "H N C"],
        keys: StoredHeads,
        values: StoredHeads,
    ) -> Float[Tensor, "G*T H C"]:
        """Attention of this group's queries, token by token, in the dtype of q."""
        heads, width = q.shape[0], q.shape[2]
        # One gather for all runs of the group: [G S, K, C] to [G, K, S, C]
        read = [held.read(self.read, q.dtype) for held in (keys, values)]
        kv_heads = read[0].shape[1]
        k, v = (each.view(self.runs, -1, kv_heads, width).transpose(1, 2) for each in read)
        q = q[:, self.tokens].view(heads, self.runs, -1, width).transpose(0, 1)
        if q.shape[2] > 1:
            return causal_attention(q, k, v, self.mask).transpose(1, 2).flatten(0, 1)
        # the query heads that share a key head are queries like any others: up to twice as fast as
        # enable_gqa
        q = q.reshape(self.runs, kv_heads, -1, width)
        return F.scaled_dot_product_attention(q, k, v, self.mask).reshape(self.runs, heads, width)


class LayerCache:
    """One layer of a `PagedCache` during one step: a `puna.nn.attention.KeyValueCache`, and where
    the feed-forward layer looks back an `InputCache`, for the step's tokens as one row.

    dtype: of attention's arithmetic; its results are rounded to that of q.
    """

    inputs: Float[Tensor, "slots D"]
    seen: Windows

    def __init__(
        self,
        keys: StoredHeads,
        values: StoredHeads,
        written: slice | Int[Tensor, "N"],
        groups: Sequence[Group],
        dtype: torch.dtype,
    ) -> None:
        self.keys, self.values, self.written, self.groups, self.dtype = (
            keys,
            values,
            written,
            groups,
            dtype,
        )

    def attend(
        self, q: Float[Tensor, "1 H N C"], k: Float[Tensor, "1 K N C"], v: Float[Tensor, "1 K N C"]
    ) -> Float[Tensor, "1 H N C"]:
        """Write all new keys and values, then let each run's queries see their own sequence's."""
        self.keys.write(self.written, k[0].transpose(0, 1))
        self.values.write(self.written, v[0].transpose(0, 1))
        queries = q[0].to(self.dtype)
        parts = [group.attend(queries, self.keys, self.values) for group in self.groups]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(q.dtype).transpose(0, 1)[None]

    def windows(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "N kernel D"]:
        """Write all new inputs, then give each token the last ones of its own sequence."""
        self.inputs[self.written] = x[0]
        return self.seen.read(self.inputs)
