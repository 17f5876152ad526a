"""The inputs of feed-forward layers that look back, in the slots of the paged cache.

A convolution needs the last inputs of a sequence, kernel - 1 of them. They could be kept by
sequence; here every token's input stays in the slot of its keys and values, L D elements more a
token, so that prefix caching, preemption and rejected draft tokens hold for them as they do for
those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class SlottedRun(Protocol):
    """The next tokens of one sequence, as `puna.inference.kv_cache.Run` says them."""

    @property
    def start(self) -> int:
        """The position of the first."""
        ...

    @property
    def count(self) -> int:
        """At least one."""
        ...

    @property
    def blocks(self) -> Sequence[int]:
        """The sequence's, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Windows:
    """The slots that each of a step's N tokens sees, the same for all layers."""

    slots: Int[Tensor, "N kernel"]
    absent: Bool[Tensor, "N kernel 1"]
    """True where a window reaches before the sequence's first token."""

    @classmethod
    def of(
        cls, runs: Sequence[SlottedRun], block_size: int, kernel: int, device: torch.device
    ) -> "Windows":
        """Those of these runs' tokens, flattened in this order."""
        slots, absent = [], []
        for run in runs:
            tokens = np.arange(run.start, run.start + run.count, dtype=np.int64)[:, None]
            positions = tokens - np.arange(kernel - 1, -1, -1, dtype=np.int64)
            absent.append(positions < 0)
            positions = positions.clip(min=0)
            blocks = np.array(run.blocks, dtype=np.int64)[positions // block_size]
            slots.append(blocks * block_size + positions % block_size)
        return cls(
            torch.from_numpy(np.concatenate(slots)).to(device),
            torch.from_numpy(np.concatenate(absent)[:, :, None]).to(device),
        )

    def read(self, inputs: Float[Tensor, "slots D"]) -> Float[Tensor, "N kernel D"]:
        """The inputs in these slots, 0 where there is none."""
        found = inputs.index_select(0, self.slots.flatten())
        return found.view(*self.slots.shape, -1).masked_fill(self.absent, 0.0)
