"""The distance that a kernel's result may have from its twin in float64."""

import torch
from torch import Tensor


def assert_near(got: Tensor, twin: Tensor, bound: float, terms: float = 0.0) -> None:
    """Every entry is within `bound` of the largest of the twin's, or of the largest of the `terms`
    that were added up to them; in bfloat16 besides within a unit in its last place.
    """
    assert got.shape == twin.shape
    twin = twin.detach()
    unit = twin.abs() * 2.0**-7 if got.dtype == torch.bfloat16 else 0.0
    allowed = bound * max(float(twin.abs().max()), terms) + unit
    excess = (got.detach().double() - twin).abs() - allowed
    assert float(excess.max()) <= 0, f"{float(excess.max())} beyond {bound} of the largest"
