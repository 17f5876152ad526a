"""The numbers that a quantized weight may have: integer codes times a scale for each group of
inputs, and the scale that fits a group best.

    W_oi = code_oi s_og        with g = i // group

Codes of 4 bits are -8 to 7 with scales in float16, codes of 8 bits -127 to 127 with one float32
scale a row: what compressed-tensors calls symmetric, and what the native core multiplies with.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from puna.errors import ModelFolderError

Bits = Literal[4, 8]
GROUPS = (32, 64, 128)
LARGEST_SCALE = 65504.0
"""The largest finite float16."""
_REACH = 6.6  # the smallest code on which the search lets a largest magnitude of 4 bits fall
_ENTRIES_AT_ONCE = 1 << 22  # entries of a step of the search, so that its temporaries stay small


@dataclass(frozen=True)
class Grid:
    """bits: of a code. group: consecutive inputs of a row that share a scale; 0: the whole row."""

    bits: Bits
    group: int

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -8 if self.bits == 4 else -127

    @property
    def highest(self) -> int:
        """The largest code."""
        return 7 if self.bits == 4 else 127

    @property
    def scale_dtype(self) -> torch.dtype:
        """Of the scales as they are stored."""
        return torch.float16 if self.group else torch.float32

    def size(self, inputs: int) -> int:
        """Inputs that share a scale. Raises ModelFolderError where they are no divisor."""
        size = self.group or inputs
        if inputs % size:
            raise ModelFolderError(
                f"group {size} does not divide the {inputs} inputs of a matrix: choose another of"
                f" {', '.join(map(str, GROUPS))}, or keep that matrix"
            )
        return size

    def stored_bits(self, inputs: int) -> float:
        """Bits a weight with its share of the scales."""
        return self.bits + (16 / self.group if self.group else 32 / inputs)


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix on a grid. codes [O, I]; scales [O, G], as stored: of float16 with groups, of
    float32 without.
    """

    grid: Grid
    codes: Int8[Tensor, "O I"]
    scales: Float[Tensor, "O G"]

    def dequantize(self) -> Float[Tensor, "O I"]:
        """code times scale, in float32."""
        return self.codes.float() * spread(self.scales, self.codes.shape[1])


def spread(scales: Float[Tensor, "O G"], inputs: int) -> Float[Tensor, "O I"]:
    """The scale of each entry, in float32."""
    return scales.float().repeat_interleave(inputs // scales.shape[1], 1)


def nearest_codes(
    weight: Float[Tensor, "O I"], scales: Float[Tensor, "O #I"], grid: Grid
) -> Float[Tensor, "O I"]:
    """The codes nearest to weight / scale, as float32; 0 where the scale is 0. scales: one for
    each entry, or of a shape that broadcasts.
    """
    safe = scales.masked_fill(scales == 0, torch.inf)
    return (weight / safe).round_().clamp_(grid.lowest, grid.highest)


def search_scales(
    weight: Float[Tensor, "O I"], grid: Grid, importance: Float[Tensor, " I"] | None = None
) -> Float[Tensor, "O G"]:
    """Of each group the scale with the smallest sum of importance_i (w_i - code_i s)^2 among the
    candidates, rounded as it is stored.

    The candidates let the largest magnitude fall on codes from below the end of the range to
    beyond it, where it is cut off; in four bits of either sign, because -8 reaches further than
    7. For the codes of each, s is then the least-squares one, sum h w q / sum h q^2. importance:
    the mean squares of the inputs; left out, all count the same. float32 arithmetic.

    Raises ModelFolderError where the group does not divide the inputs or a scale exceeds float16.
    Source: ggml's make_qx_quants (search and least squares); Lin et al. 2023, AWQ, for the weights
    by activations.
    """
    outputs, inputs = weight.shape
    size = grid.size(inputs)
    h = torch.ones(inputs) if importance is None else importance.float()
    # inputs that are never seen still decide where nothing else does
    h = (h / h.mean() + 1e-6 if h.any() else torch.ones(inputs)).view(1, -1, size)
    largest = float(weight.abs().max())
    if grid.group and largest > LARGEST_SCALE * _REACH:
        raise ModelFolderError(
            f"a weight is {largest:.3g}, but scales are float16 and reach {LARGEST_SCALE:g}: keep"
            " that matrix, or use int8"
        )
    step = max(_ENTRIES_AT_ONCE // inputs, 1)
    found = [
        _search(weight[start : start + step].float().view(-1, inputs // size, size), h, grid)
        for start in range(0, outputs, step)
    ]
    return torch.cat(found).to(grid.scale_dtype).view(outputs, inputs // size)


def _search(
    x: Float[Tensor, "O G size"], h: Float[Tensor, "1 #G size"], grid: Grid
) -> Float[Tensor, "O G"]:
    largest = x.abs().amax(-1, keepdim=True)
    best_scale = torch.zeros_like(largest)
    best = torch.full_like(largest, torch.inf)
    for reach in _reaches(grid):
        scale = largest / reach
        q = nearest_codes(x, scale, grid)
        hq = h * q
        fitted = (hq * x).sum(-1, keepdim=True) / (hq * q).sum(-1, keepdim=True).clamp_min(1e-30)
        if grid.group:
            fitted = fitted.clamp(-LARGEST_SCALE, LARGEST_SCALE).half().float()
        q = nearest_codes(x, fitted, grid)
        error = (h * (x - q * fitted).square_()).sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        best_scale = torch.where(better, fitted, best_scale)
    return best_scale.squeeze(-1)


def _reaches(grid: Grid) -> list[float]:
    """The code, not whole, on which each candidate lets the largest magnitude fall."""
    if grid.bits == 8:
        return [127.0 + step for step in range(0, 48, 6)]
    return [sign * (_REACH + 0.3 * step) for sign in (1, -1) for step in range(13)]
