"""The feed-forward layers of the Transformer, ungated and gated, and the rule for a gated one's
width.

Not here: the activations (activation.py and torch.nn.functional), and gated units that are no
feed-forward layer (gated_linear.py). They cost most of a model's arithmetic: a multiplication and
an addition per parameter and token.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from puna.nn.activation import SelfGate

Activation = Callable[[Tensor], Tensor]


def swiglu_hidden_size(width: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """Feed-forward width F of a gated layer that has as many parameters as an ungated one of width
    4 D.

    Three matrices instead of two: 3 alpha D^2 = 8 D^2 gives alpha = 8/3. LLaMA computes int(2/3 * 4
    D), multiplies (Llama 2 70B and later) and rounds UP to a multiple: 4096 -> 11008, 5120 ->
    13824, 6656 -> 17920, 8192 -> 22016.

    Source: Touvron et al. 2023, LLaMA, section 2.2; the rounding is in Meta's published code.
    Usual mistake: rounding up twice, or to the nearest multiple.
    """
    for name, value in (("width", width), ("multiple_of", multiple_of), ("multiplier", multiplier)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} {value} gives no width: it must be above 0 and finite")
    hidden = int(int(2 * 4 * width / 3) * multiplier)
    return -(-max(hidden, 1) // multiple_of) * multiple_of


class FeedForward(nn.Module):
    """y = act(x W_up + b) W_down + c: expand, apply the nonlinearity, project, each
    position by itself.

    Relu, gelu and silu (or `Swish`) as the activation give FFN_ReLU, FFN_GELU and FFN_Swish; with
    biases as in the first Transformer, without (the default) as in T5. Shapes: x [..., D] -> [...,
    D], through [..., F]; W_up [F, D], W_down [D, F] (PyTorch stores the transpose). Arithmetic in
    the dtype of x, or of autocast.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 3.3; Shazeer 2020, GLU Variants
    Improve Transformer, equations 1 (with biases), 2 and 3 (without). Usual mistake: comparing it
    with a gated layer of the same F, which has half as many parameters again.
    """

    def __init__(
        self, width: int, hidden: int, activation: Activation, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.act_fn = activation
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    @classmethod
    def from_linears(cls, up: nn.Linear, down: nn.Linear, activation: Activation) -> "FeedForward":
        """The layer of these very linears, biases included: not copied, so that training it trains
        them.
        """
        _check_fit(down, up=up)
        with torch.device("meta"):  # nothing is drawn for what is replaced at once
            layer = cls(up.in_features, up.out_features, activation)
        layer.up_proj, layer.down_proj = up, down
        return layer

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        out: Tensor = self.down_proj(self.act_fn(self.up_proj(x)))
        return out

    def extra_repr(self) -> str:
        return _function_name(self.act_fn)


class SelfGatedFeedForward(FeedForward):
    """y = (h * sigmoid(h W_g + b)) W_down with h = x W_up: an ungated layer whose units gate
    themselves, each by all others.

    Shapes: x [..., D] -> [..., D], through [..., F]; W_up [F, D], W_g [F, F], W_down [D, F]
    (PyTorch stores the transpose). 2 D F + F^2 parameters: F = 2 D has the 8 D^2 of an ungated
    layer with F = 4 D. Arithmetic in the dtype of x, or of autocast.

    Source: the gate of Dauphin et al. 2016, section 2, as an activation (`SelfGate`). Usual
    mistake: an F of 4 D, which has three times the parameters of what it is compared with.
    """

    def __init__(self, width: int, hidden: int, *, bias: bool = False) -> None:
        gate = SelfGate(nn.Linear(hidden, hidden, bias=bias))
        super().__init__(width, hidden, gate, bias=bias)


class GatedFeedForward(nn.Module):
    """y = (act(x W_gate) * (x W_up)) W_down; with silu(z) = z * sigmoid(z), the default, this is
    SwiGLU, the layer of LLaMA.

    The activation of the gate names the layer: sigmoid FFN_GLU, the identity FFN_Bilinear, relu
    FFN_ReGLU, gelu FFN_GEGLU, silu or `Swish` FFN_SwiGLU. Shapes: x [..., D] -> [..., D], through
    [..., F]; W_gate and W_up [F, D], W_down [D, F] (PyTorch stores the transpose). Arithmetic in
    the dtype of x, or of autocast. Three matrices: `swiglu_hidden_size` gives the F that pays for
    the third.

    limit: the gate is cut at `limit` and x W_up at both -limit and limit, before anything else;
    up_offset is then added to x W_up. gpt-oss has limit 7, offset 1, `Swish(beta=1.702)` and
    biases; PaLM has the defaults and F = 4 D. recompute: in training, keep only x W_gate and x
    W_up, two F-wide tensors instead of SwiGLU's four, and make their product anew in the backward
    pass; no matrix product is done twice, and the gradients are the same bits.

    Source: Shazeer 2020, GLU Variants Improve Transformer, equation 6 (equations 4 and 5 with
    biases). Why gates help is not known: the paper's conclusion has no explanation to offer but
    "divine benevolence". Usual mistake: activating the up branch instead of the gate; it trains,
    and loads no published weights.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Activation = F.silu,
        *,
        bias: bool = False,
        limit: float | None = None,
        up_offset: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if limit is not None and not limit > 0:
            raise ValueError(
                f"limit {limit} must be above 0, since x W_up is cut to [-limit, limit]: give a"
                " positive one, or None for no cut"
            )
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.act_fn = activation
        self.down_proj = nn.Linear(hidden, width, bias=bias)
        self.limit, self.up_offset, self.recompute = limit, up_offset, recompute

    @classmethod
    def from_linears(
        cls,
        gate: nn.Linear,
        up: nn.Linear,
        down: nn.Linear,
        activation: Activation = F.silu,
        *,
        limit: float | None = None,
        up_offset: float = 0.0,
        recompute: bool = False,
    ) -> "GatedFeedForward":
        """The layer of these very linears, biases included: not copied, so that training it trains
        them.
        """
        _check_fit(down, gate=gate, up=up)
        with torch.device("meta"):  # nothing is drawn for what is replaced at once
            layer = cls(
                gate.in_features,
                gate.out_features,
                activation,
                limit=limit,
                up_offset=up_offset,
                recompute=recompute,
            )
        layer.gate_proj, layer.up_proj, layer.down_proj = gate, up, down
        return layer

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        if self.recompute:
            # recomputing ends where autograd has what it kept, which is before the matrix product
            # of down_proj
            out: Tensor = checkpoint(
                self._gate_and_project, self.gate_proj(x), self.up_proj(x), use_reentrant=False
            )
            return out
        return self._gate_and_project(self.gate_proj(x), self.up_proj(x))

    def _gate_and_project(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        if self.up_offset:
            up = up + self.up_offset
        gate = self.act_fn(gate)
        out: Tensor = self.down_proj(gate * up)
        return out

    def extra_repr(self) -> str:
        options = {"limit": self.limit, "up_offset": self.up_offset, "recompute": self.recompute}
        return ", ".join(
            filter(
                None,
                [
                    _function_name(self.act_fn),
                    *(f"{name}={value}" for name, value in options.items() if value),
                ],
            )
        )


def _check_fit(down: nn.Linear, **inner: nn.Linear) -> None:
    """A ValueError unless `down` leads back from where all others lead, and all have a bias or none
    has.
    """
    linears = {**inner, "down": down}
    if any(
        (each.in_features, each.out_features) != (down.out_features, down.in_features)
        for each in inner.values()
    ):
        widths = ", ".join(
            f"{name} {each.in_features} -> {each.out_features}" for name, each in linears.items()
        )
        raise ValueError(
            f"{widths}: down must lead back from F to D where every other one leads from D to F"
        )
    biased = [name for name, each in linears.items() if each.bias is not None]
    if biased and len(biased) < len(linears):
        raise ValueError(
            f"of {', '.join(linears)} only {' and '.join(biased)} with a bias: give all one (zeros"
            " will do), or none"
        )


def _function_name(activation: Activation) -> str:
    """For the repr, where a module shows itself as a child."""
    return (
        ""
        if isinstance(activation, nn.Module)
        else f"act_fn={getattr(activation, '__name__', activation)}"
    )
