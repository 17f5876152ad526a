"""LoRA adapters laid out for the native core: one A and one B for each matrix of a packed model, of
all the projections that were merged into it (native/lora.h).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.native.packing import PackedLinear, pack_floats

RANKS = np.dtype([("begin", np.int32), ("end", np.int32), ("at", np.int64)])  # PunaRanks
LAYER_MATRICES = ("qkv", "attention_output", "gate_up", "down")  # Matrix of native/step.h


@dataclass(frozen=True)
class LowRankPart:
    """The update of one projection: y[rows] += b (a x), with a [r, I], and b [O, r] with the scale
    in it, both float32. rows: int64 [O], the places of the projection's rows in the packed matrix.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class PackedUpdate:
    """The update of a packed matrix by an adapter.

    a: of all parts, one below the other, in float32. b: by panel of the matrix, [its ranks][lanes].
    panels: by panel, in RANKS, which rows of `a` its part of `b` is for, and where that begins.
    """

    a: PackedLinear
    b: NDArray[np.float32]
    panels: NDArray[np.void]


@dataclass(frozen=True)
class PackedAdapter:
    """The updates of one adapter, by the names that `DecoderShape.linears` gives the matrices;
    those that it leaves alone are not there.
    """

    updates: Mapping[str, PackedUpdate]

    @property
    def ranks(self) -> int:
        """The most ranks that one of its matrices has, all parts together."""
        return max((update.a.rows for update in self.updates.values()), default=0)


def pack_update(parts: Sequence[LowRankPart], panels: int, lanes: int) -> PackedUpdate:
    """The parts of a matrix of so many panels as one update.

    A panel that several parts have rows in is given the ranks of all from the first of them to the
    last, with zeros in the rows that these do not belong to.
    """
    firsts = np.cumsum([0, *(len(part.a) for part in parts)])
    begin, end = np.zeros(panels, np.int64), np.zeros(panels, np.int64)
    for part, first in zip(parts, firsts[:-1], strict=True):
        touched = np.unique(part.rows // lanes)
        # the parts come in the order of their ranks, so the first that has a panel begins it
        begin[touched] = np.where(end[touched] == 0, first, begin[touched])
        end[touched] = first + len(part.a)
    sizes = (end - begin) * lanes
    at = np.cumsum(sizes) - sizes
    b = np.zeros(int(sizes.sum()), np.float32)
    for part, first in zip(parts, firsts[:-1], strict=True):
        panel, lane = part.rows // lanes, part.rows % lanes
        ranks = first + np.arange(len(part.a))
        b[at[panel, None] + (ranks - begin[panel, None]) * lanes + lane[:, None]] = part.b
    described = np.zeros(panels, RANKS)
    described["begin"], described["end"], described["at"] = begin, end, at
    a = np.concatenate([part.a for part in parts])
    return PackedUpdate(pack_floats(a, "float32", lanes), b, described)
