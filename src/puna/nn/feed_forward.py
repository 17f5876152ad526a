"""The gated feed-forward layer of LLaMA and the rule for its width."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def swiglu_hidden_size(width: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """Feed-forward width F of a SwiGLU layer that has as many parameters as an ungated one of width 4 D.

    Three matrices instead of two: 3 alpha D^2 = 8 D^2 gives alpha = 8/3. LLaMA computes int(2/3 * 4 D), multiplies (Llama 2 70B and
    later) and rounds UP to a multiple: 4096 -> 11008, 5120 -> 13824, 6656 -> 17920, 8192 -> 22016.

    Source: Touvron et al. 2023, LLaMA, section 2.2; the rounding is in Meta's published code.
    Usual mistake: rounding up twice, or to the nearest multiple.
    """
    hidden = int(int(2 * 4 * width / 3) * multiplier)
    return -(-hidden // multiple_of) * multiple_of


class SwiGLU(nn.Module):
    """y = (silu(x W_gate) * (x W_up)) W_down, without biases; silu(z) = z * sigmoid(z).

    Shapes: x [..., D] -> [..., D], through [..., F]; W_gate and W_up [F, D], W_down [D, F] (PyTorch stores the transpose).
    Arithmetic in the dtype of x, or of autocast.

    Source: Shazeer 2020, GLU Variants Improve Transformer, equation 6 (FFN_SwiGLU with beta = 1).
    Usual mistake: activating the up branch instead of the gate; it trains, and loads no published weights.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out
