"""Root mean square normalization.

Not here: where a norm stands in the block (model/transformer.py decides). Costs one read and one write of the input when fused; eager
PyTorch on a CPU makes about five passes.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension.

    Shapes: x [..., D] -> [..., D], weight [D], ones at the start. The statistics are taken in float32 whatever the dtype of x; the
    normalised value is cast back to the dtype of x and only then multiplied by the weight, which is the order of Meta's and Hugging
    Face's LLaMA. Scale invariant (for eps -> 0), not shift invariant.

    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization, section 3, equation 4; eps inside the root as in LLaMA.
    Usual mistakes: eps outside the root (its gradient at 0 is 1/eps instead of 1/sqrt(eps)); multiplying by the weight before the cast,
    which rounds differently in bfloat16.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        wide = x.float()
        normalised = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normalised.to(x.dtype)

    def extra_repr(self) -> str:
        return f"({self.weight.numel()},), eps={self.eps:g}"
