"""Keys or values of one layer of a cache: as they are, or in int8 with a scale for each token and
key/value head.
"""

from typing import Protocol

import torch
from jaxtyping import Float, Int8
from torch import Tensor

LARGEST_CODE = 127

Slots = slice | Tensor


class StoredHeads(Protocol):
    """Slots of tokens, each of K heads of width C."""

    def write(self, slots: Slots, heads: Float[Tensor, "N K C"]) -> None:
        """Put new tokens into these slots; no other changes."""
        ...

    def read(self, slots: Slots, dtype: torch.dtype) -> Float[Tensor, "S K C"]:
        """The heads in these slots, in this dtype."""
        ...


class PlainHeads:
    """Entries [slots, K, C] in a floating-point dtype."""

    def __init__(self, entries: Float[Tensor, "slots K C"]) -> None:
        self._entries = entries

    def write(self, slots: Slots, heads: Float[Tensor, "N K C"]) -> None:
        """As `StoredHeads.write`; rounded to the dtype of the entries."""
        self._entries[slots] = heads

    def read(self, slots: Slots, dtype: torch.dtype) -> Float[Tensor, "S K C"]:
        """As `StoredHeads.read`."""
        return _at(self._entries, slots).to(dtype)


class Int8Heads:
    """Codes int8 [slots, K, C] and scales float32 [slots, K], by `quantize_heads`."""

    def __init__(self, codes: Int8[Tensor, "slots K C"], scales: Float[Tensor, "slots K"]) -> None:
        self._codes, self._scales = codes, scales

    def write(self, slots: Slots, heads: Float[Tensor, "N K C"]) -> None:
        """As `StoredHeads.write`; quantized."""
        self._codes[slots], self._scales[slots] = quantize_heads(heads)

    def read(self, slots: Slots, dtype: torch.dtype) -> Float[Tensor, "S K C"]:
        """As `StoredHeads.read`; code times scale in float32, rounded once."""
        scales = _at(self._scales, slots)[..., None]
        return (_at(self._codes, slots).float() * scales).to(dtype)


def quantize_heads(
    heads: Float[Tensor, "N K C"],
) -> tuple[Int8[Tensor, "N K C"], Float[Tensor, "N K"]]:
    """Codes and scales, as native/codes.h has them: code = round(x / scale), scale = max|x| / 127
    over the C entries of a head, in float32. An entry is off by at most max|x| / 254; one that is
    not finite shows as not a number.
    """
    whole = heads.float()
    most = whole.abs().amax(-1)
    inverse = (LARGEST_CODE / most).nan_to_num(0.0, posinf=0.0)
    codes = (whole * inverse[..., None]).round().nan_to_num(0.0).to(torch.int8)
    return codes, torch.where(most.isfinite(), most / LARGEST_CODE, torch.nan)


def _at(held: Tensor, slots: Slots) -> Tensor:
    # twice as fast as held[slots]
    return held[slots] if isinstance(slots, slice) else held.index_select(0, slots)
