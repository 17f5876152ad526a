"""Gated linear units as layers: two linear branches, of which one, through a sigmoid, decides how
much of the other passes.

Not here: the three-matrix feed-forward layers built on the same product (feed_forward.py). Both
branches are one joined projection, so that a layer costs one matrix product, of twice the width.
In a Transformer only the convolution looks back; what it needs of a cache is `InputCache`.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class GatedLinear(nn.Module):
    """y = (x W + b) * sigmoid(x V + c): the value is linear, so that only the gate scales its
    gradient.

    Shapes: x [..., D] -> [..., O]. `proj` is the joined [W; V] with weight [2 O, D] and bias [2 O]:
    the first O rows make the value, the last O the gate, which is the order of `F.glu`. Arithmetic
    in the dtype of x, or of autocast.

    Source: Dauphin et al. 2016, Language Modeling with Gated Convolutional Networks, section 2
    (there as a convolution). Usual mistake: the halves swapped. Shazeer 2020 writes the gate first,
    so its W is the paper's and `F.glu`'s V.
    """

    def __init__(self, width: int, out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out, bias=bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B O"]:
        return F.glu(self.proj(x), dim=-1)


class CausalGatedConvolution(nn.Module):
    """y_t = (b + sum_j x_(t-j) W_j) * sigmoid(c + sum_j x_(t-j) V_j), 0 <= j < kernel: a gated
    linear unit that sees the last inputs.

    Shapes: x [B, T, D] -> [B, T, O]. kernel - 1 zeros stand before the first input, so y_t depends
    on x_(t-kernel+1) ... x_t and on nothing later. `conv` holds both branches, weight [2 O, D,
    kernel] with the newest input last: the first O channels make the value, the last O the gate. A
    kernel of 1 is `GatedLinear`. Arithmetic in the dtype of x, or of autocast.

    Source: Dauphin et al. 2016, Language Modeling with Gated Convolutional Networks, section 2.
    Usual mistake: the same number of zeros on both sides ("same" padding), which shows each
    position its own target.
    """

    def __init__(self, width: int, out: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        if kernel < 1:
            raise ValueError(
                f"kernel {kernel} is below 1, but it counts the inputs that an output sees, itself"
                " included: use 1 or more"
            )
        self.conv = nn.Conv1d(width, 2 * out, kernel, bias=bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T O"]:
        padded = F.pad(x.transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))
        return F.glu(self.conv(padded), dim=1).transpose(1, 2)

    def of_windows(self, windows: Float[Tensor, "N kernel D"]) -> Float[Tensor, "N O"]:
        """y of the newest input of each window, which is its last."""
        return F.glu(self.conv(windows.transpose(1, 2)), dim=1).squeeze(2)


@runtime_checkable
class InputCache(Protocol):
    """A cache for one layer that looks back: it keeps the inputs of every sequence's tokens."""

    def windows(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B*T kernel D"]:
        """Store the new inputs, then give the last `kernel` inputs up to each, of its own sequence;
        zeros before its first. Changes the cache.
        """
        ...


class ConvolutionalFeedForward(nn.Module):
    """y = (`CausalGatedConvolution` of x, to F channels) W_down: a feed-forward layer that sees the
    last `kernel` positions.

    Shapes: x [B, T, D] -> [B, T, D], through [B, T, F]; (2 kernel + 1) D F parameters without
    biases. `cache`: this layer's, for tokens whose forerunners were computed before; it is changed.
    Arithmetic in the dtype of x, or of autocast.

    Source: Dauphin et al. 2016, section 2, whose blocks have the convolution from D to D instead.
    Usual mistake: a cache of the outputs; the convolution needs the inputs that came before.
    """

    def __init__(self, width: int, hidden: int, *, kernel: int = 3, bias: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.gated = CausalGatedConvolution(width, hidden, kernel, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(
        self, x: Float[Tensor, "B T D"], cache: InputCache | None = None
    ) -> Float[Tensor, "B T D"]:
        hidden: Tensor = (
            self.gated(x)
            if cache is None or self.kernel == 1
            else self.gated.of_windows(cache.windows(x)).view(*x.shape[:2], -1)
        )
        out: Tensor = self.down_proj(hidden)
        return out
