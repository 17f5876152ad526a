"""Matrices of weights laid out for the native core: panels of rows, as native/linear.h has them."""

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Entry = TypeVar("Entry", bound=np.generic)

FORMATS = ("float32", "bfloat16", "int8", "int4")  # numbers: PunaFormat of native/inference.h
STEP = {"float32": 1, "bfloat16": 2, "int8": 4, "int4": 8}  # columns beside each other
BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
INPUT_GROUP = 128  # columns with one scale of the input, where the weights have no groups


@dataclass(frozen=True)
class PackedLinear:
    """W [rows, columns] in a format, `kind`.

    weights: as bytes, with a whole number of panels of `lanes` rows. scales: for int8 and int4
    [panels, groups, lanes] float16, or float32 with one group where a scale holds for a whole row.
    group: columns that a scale holds for; 0: the whole row.
    """

    kind: str
    rows: int
    columns: int
    lanes: int
    weights: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32] | None = None
    group: int = 0

    @property
    def panels(self) -> int:
        """The number of panels."""
        return -(-self.rows // self.lanes)

    @property
    def weight_bytes(self) -> int:
        """The bytes that `weights` must have."""
        columns = -(-self.columns // STEP[self.kind]) * STEP[self.kind]
        return self.panels * self.lanes * columns * BITS[self.kind] // 8

    @property
    def scales_shape(self) -> tuple[int, int, int] | None:
        """The shape that `scales` must have."""
        if self.kind not in ("int8", "int4"):
            return None
        columns = -(-self.columns // STEP[self.kind]) * STEP[self.kind]
        return self.panels, -(-columns // self.group) if self.group else 1, self.lanes

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and scales."""
        return self.weights.nbytes + (0 if self.scales is None else self.scales.nbytes)


def pack_floats(entries: NDArray[np.float32], kind: str, lanes: int) -> PackedLinear:
    """Float32 [rows, columns] as "float32" or, rounded to the nearest, "bfloat16"."""
    words = entries if kind == "float32" else to_bfloat16(entries)
    panels = _panels(words, lanes, STEP[kind])
    rows, columns = entries.shape
    return PackedLinear(kind, rows, columns, lanes, panels.reshape(-1).view(np.uint8))


def pack_codes(
    codes: NDArray[np.int8],
    scales: NDArray[np.float16] | NDArray[np.float32],
    *,
    bits: int,
    group: int,
    lanes: int,
) -> PackedLinear:
    """Codes [rows, columns] with W = code * scale.

    Codes of 8 bits are -127 to 127, of 4 bits -8 to 7. scales: float16 [rows, groups] of `group`
    columns each (the last may have fewer), or float32 [rows, 1] with group 0. Raises ValueError for
    a group that is no multiple of 32.
    """
    if group % 32:
        raise ValueError(f"groups of {group} columns: the native core has multiples of 32")
    rows, columns = codes.shape
    if bits == 8:
        packed = _panels((codes.astype(np.int16) + 128).astype(np.uint8), lanes, 4, fill=128)
    else:
        both = _panels((codes + 8).astype(np.uint8), lanes, 8, fill=8)
        # of eight columns the first four are low halves: [panels, steps, lanes, 2, 4]
        halves: Any = both.reshape(*both.shape[:3], 2, 4)
        packed = halves[..., 0, :] | halves[..., 1, :] << np.uint8(4)
    filled = np.zeros((-(-rows // lanes) * lanes, scales.shape[1]), scales.dtype)
    filled[:rows] = scales
    lined = filled.reshape(-1, lanes, scales.shape[1]).transpose(0, 2, 1)
    return PackedLinear(
        f"int{bits}",
        rows,
        columns,
        lanes,
        np.ascontiguousarray(packed).reshape(-1),
        np.ascontiguousarray(lined),
        group,
    )


def take_turns(first: PackedLinear, second: PackedLinear) -> PackedLinear:
    """The panels of two matrices of one shape and format, by turns: the gate's and the other's."""

    def woven(a: NDArray[Entry], b: NDArray[Entry]) -> NDArray[Entry]:
        panels = first.panels
        return np.stack([a.reshape(panels, -1), b.reshape(panels, -1)], 1)

    scales: Any = first.scales
    if scales is not None:
        scales = woven(scales, cast(Any, second.scales)).reshape(-1, *scales.shape[1:])
    rows = 2 * first.panels * first.lanes
    return PackedLinear(
        first.kind,
        rows,
        first.columns,
        first.lanes,
        woven(first.weights, second.weights).reshape(-1),
        scales,
        first.group,
    )


def to_bfloat16(entries: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even; not a number stays one."""
    bits = np.ascontiguousarray(entries, np.float32).view(np.uint32)
    near = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(entries), (bits >> 16).astype(np.uint16) | 0x40, near)


def _panels(
    entries: NDArray[np.generic], lanes: int, step: int, fill: int = 0
) -> NDArray[np.generic]:
    """[rows, columns] as [panels, steps, lanes, step], filled up."""
    rows, columns = entries.shape
    panels, steps = -(-rows // lanes), -(-columns // step)
    whole = np.full((panels * lanes, steps * step), fill, entries.dtype)
    whole[:rows, :columns] = entries
    return np.ascontiguousarray(whole.reshape(panels, lanes, steps, step).transpose(0, 2, 1, 3))
