"""The activations that PyTorch does not have: ReLU squared, Swish with any beta, and a gate on
oneself; and the choice between the two forms of GELU.

Not here: ReLU, GELU and SiLU, which are `F.relu`, `F.gelu` and `F.silu`. All work element by
element: they cost memory traffic, not arithmetic.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def relu_squared(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """y = max(0, x)^2, in the dtype of x; y' = 2 max(0, x), so that unlike ReLU it has no kink at 0
    and no bound on its slope.

    Source: So et al. 2021, Primer: Searching for Efficient Transformers for Language Modeling.
    Usual mistake: squaring before the ReLU, which then does nothing.
    """
    return F.relu(x).square()


class Swish(nn.Module):
    """y = x * sigmoid(beta x): beta = 1 is SiLU, beta = 0 is x/2, and beta -> infinity is ReLU,
    with an error of at most 0.2785/beta.

    Beta is a constant, one learned number (a parameter of shape [1]), or one for each of `width`
    channels, the last dimension of x. Arithmetic in the dtype of x, to which a learned beta is
    cast: a float32 beta does not widen bfloat16 activations. The constant 1 goes through `F.silu`,
    one kernel, for which autograd keeps x alone; any other beta keeps the sigmoid as well.

    Source: Ramachandran et al. 2017, Searching for Activation Functions. Beta = 1 is older:
    Hendrycks & Gimpel 2016, Gaussian Error Linear Units, who also give beta = 1.702 as an
    approximation of GELU (off by less than 0.0204). Usual mistake: sigmoid(x) * beta x, which
    scales the activation instead of sharpening it.
    """

    def __init__(
        self, width: int | None = None, beta: float = 1.0, *, learned: bool = False
    ) -> None:
        super().__init__()
        if width is not None and not (learned and width > 0):
            raise ValueError(
                f"Swish with width {width}: a width counts the betas to learn, so give one above 0"
                " and learned=True, or none"
            )
        self.start = beta
        self.beta: float | nn.Parameter = (
            nn.Parameter(torch.full((width or 1,), float(beta))) if learned else beta
        )

    def reset_parameters(self) -> None:
        """Every learned beta back to where it started."""
        if isinstance(self.beta, Tensor):
            nn.init.constant_(self.beta, self.start)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if isinstance(self.beta, Tensor):
            return x * torch.sigmoid(self.beta.to(x.dtype) * x)
        return F.silu(x) if self.beta == 1 else x * torch.sigmoid(self.beta * x)

    def extra_repr(self) -> str:
        return (
            f"{self.beta.numel()} learned from {self.start:g}"
            if isinstance(self.beta, Tensor)
            else f"beta={self.beta:g}"
        )


def identity(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """y = x: the activation of a bilinear gate."""
    return x


def gelu(_width: int, approximate: Literal["none", "tanh"] = "none") -> Callable[[Tensor], Tensor]:
    """y = x Phi(x), exact by erf, or with tanh: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    The two differ by less than 0.0005. Source: Hendrycks & Gimpel 2016, section 2; GPT-2 and Gemma
    have the second form. Usual mistake: taking the one for the other because their names are alike:
    `gelu_new` and `gelu_pytorch_tanh` are the second.
    """
    return F.gelu if approximate == "none" else partial(F.gelu, approximate=approximate)


def swish(
    width: int, beta: float | Literal["scalar", "channel"] = 1.0
) -> Callable[[Tensor], Tensor]:
    """`Swish` with a beta that is given or learned: `scalar` learns one, `channel` one for each of
    `width`, from 1. The constant 1 is `F.silu` itself.
    """
    if isinstance(beta, str):
        return Swish(width if beta == "channel" else None, learned=True)
    return F.silu if beta == 1 else Swish(beta=beta)


class SelfGate(nn.Module):
    """y = x * sigmoid(g(x)): the gated linear unit as an activation, for any map g from x to a gate
    of its shape.

    Where g(x) is far below 0 the gate blocks, far above it passes x unchanged. The identity as g
    gives SiLU, beta x gives Swish, a linear layer lets every channel listen to all others.
    Arithmetic in the dtype of x and of g.

    Source: the gate of Dauphin et al. 2016, Language Modeling with Gated Convolutional Networks,
    section 2, on an ungated x. Usual mistake: a g that ends in a sigmoid of its own; the gate then
    stays between 0.5 and 0.73 and never closes.
    """

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return x * torch.sigmoid(self.gate(x))
