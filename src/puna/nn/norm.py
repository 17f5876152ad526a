"""Normalization: RMSNorm and its partial form, LayerNorm, the two halves of LayerNorm, and a linear
layer with normalised sums.

Not here: where a norm stands in the block (model/block.py). Each row is normalised by its own
statistics, never by those of other rows, so a norm does the same in training and in inference, at
any batch size. Costs one read and one write of the input when fused; eager PyTorch on a CPU makes
about five passes (`LayerNorm` is always one kernel).
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EpsPlace = Literal["inside", "outside"]
WeightPlace = Literal["after_cast", "before_cast"]
Rounding = Literal["floor", "ceil"]


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} {value!r} is not known: say {' or '.join(get_args(choices))}")


def _widened(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """x in the dtype of the statistics: float64 stays, everything narrower becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def _scale_and_shift(
    x: Float[Tensor, "*B"], weight: Tensor | None, bias: Tensor | None
) -> Float[Tensor, "*B"]:
    """weight * x + bias, without those that are None."""
    if weight is not None:
        x = weight * x
    return x if bias is None else x + bias


class _Affine(nn.Module):
    """A part whose own parameters are a weight, which starts at 1, and a bias, which starts at 0.

    One with further parameters has a `reset_parameters` of its own, which sets them all.
    """

    def reset_parameters(self) -> None:
        """Set the parameters to their start values. Raises TypeError for one that is neither."""
        starts = {"weight": 1.0, "bias": 0.0}
        for name, parameter in self.named_parameters(recurse=False):
            if name not in starts:
                raise TypeError(
                    f"the start of {type(self).__name__}.{name} is not known here: give the class a"
                    " reset_parameters that sets all its parameters"
                )
            nn.init.constant_(parameter, starts[name])


class RMSNorm(_Affine):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension.

    Shapes: x [..., D] -> [..., D], weight [D], ones at the start. The statistics are taken in
    float32 whatever the dtype of x (float64 apart, which stays); the normalised value is cast back
    to the dtype of x and only then multiplied by the weight, which is the order of Meta's and
    Hugging Face's LLaMA. Scale invariant (for eps -> 0), not shift invariant; equal to LayerNorm
    where the mean is 0.

    eps_place: "outside" is x / (sqrt(mean(x^2)) + eps), as in the paper's PyTorch class, whose eps
    is 1e-8; the paper's Theano and TensorFlow code and LLaMA have it inside. At x = 0 both give 0,
    but the slope is 1/sqrt(eps) inside and 1/eps outside. weight_place: "before_cast" multiplies in
    float32 and rounds once, as in Gemma and TransformerEngine (Gemma stores weight - 1). bias: the
    paper's offset [D], zeros at the start; off, since a norm that does not centre leaves nothing to
    shift back. weight: False, without bias, is the form without parameters. State dicts of the
    paper's class (`scale`, `offset`) load as they are.

    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization, equation 4; code in
    github.com/bzhangGo/rmsnorm. Usual mistakes: eps outside where the weights were trained with it
    inside; multiplying by the weight before the cast where they were trained after it, which rounds
    differently in bfloat16.
    """

    def __init__(
        self,
        width: int,
        eps: float = 1e-5,
        *,
        weight: bool = True,
        bias: bool = False,
        eps_place: EpsPlace = "inside",
        weight_place: WeightPlace = "after_cast",
    ) -> None:
        super().__init__()
        _check_choice("eps_place", eps_place, EpsPlace)
        _check_choice("weight_place", weight_place, WeightPlace)
        self.width = width
        self.eps = eps
        self.eps_place = eps_place
        self.weight_place = weight_place
        self.weight = nn.Parameter(torch.ones(width)) if weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        wide = _widened(x)
        normalised = wide * self._inverse_rms(wide)
        if self.weight_place == "before_cast":
            return _scale_and_shift(normalised, self.weight, self.bias).to(x.dtype)
        return _scale_and_shift(normalised.to(x.dtype), self.weight, self.bias)

    def _inverse_rms(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B 1"]:
        # the gradient of vector_norm at 0 is 0; that of a square root would be nan
        if self.eps_place == "outside":
            rms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return (rms + self.eps).reciprocal()
        return torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for published, name in (("scale", "weight"), ("offset", "bias")):
            if prefix + published in state_dict:
                state_dict[prefix + name] = state_dict.pop(prefix + published)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        weight, bias = self.weight is not None, self.bias is not None
        chosen = {
            f"{weight=}",
            f"{bias=}",
            f"eps_place={self.eps_place}",
            f"weight_place={self.weight_place}",
        }
        others = chosen - {
            "weight=True",
            "bias=False",
            "eps_place=inside",
            "weight_place=after_cast",
        }
        return ", ".join([f"({self.width},), eps={self.eps:g}", *sorted(others)])


def partial_width(width: int, fraction: float, rounding: Rounding = "floor") -> int:
    """The number of entries that a fraction p of `width` is: 512 and 0.0625 -> 32. A fraction
    outside [0, 1] means all of them.

    "floor" is the published code, int(D p) in floating point: 100 and 0.29 -> 28. "ceil" is the
    paper, exact on the decimal that p prints as: 100 and 0.07 -> 7, where floating point would say
    8.

    Source: Zhang & Sennrich 2019, the section on pRMSNorm; its PyTorch class. Raises ValueError
    where no entry is left: the published class divides by zero there.
    """
    _check_choice("rounding", rounding, Rounding)
    if fraction < 0 or fraction > 1:
        return width
    entries = (
        int(width * fraction) if rounding == "floor" else math.ceil(width * Fraction(str(fraction)))
    )
    if entries < 1:
        raise ValueError(
            f"fraction {fraction:g} of {width} entries leaves none by {rounding}: take more than"
            f" 1/{width}"
        )
    return entries


class PartialRMSNorm(RMSNorm):
    """pRMSNorm: y = x / sqrt(mean(x_1^2 ... x_k^2) + eps) * weight, with the statistic of the first
    k = D p entries alone.

    All D entries are divided by it. Scale invariant like RMSNorm; the gradient through the
    statistic reaches only the first k entries. It saves reads where nothing is fused; the estimate
    is as good as the entries are alike, which training has to see to. The paper's p is 6.25%. How k
    is rounded: `partial_width`. All else as in `RMSNorm`.

    Source: Zhang & Sennrich 2019, the section on pRMSNorm.
    Usual mistake: dividing the sum of k squares by D.
    """

    def __init__(
        self,
        width: int,
        fraction: float = 0.0625,
        eps: float = 1e-5,
        *,
        rounding: Rounding = "floor",
        weight: bool = True,
        bias: bool = False,
        eps_place: EpsPlace = "inside",
        weight_place: WeightPlace = "after_cast",
    ) -> None:
        super().__init__(
            width, eps, weight=weight, bias=bias, eps_place=eps_place, weight_place=weight_place
        )
        self.entries = partial_width(width, fraction, rounding)

    def _inverse_rms(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B 1"]:
        return super()._inverse_rms(x[..., : self.entries])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, entries={self.entries}"


class ScaleNorm(RMSNorm):
    """y = x / sqrt(mean(x^2) + eps) * g, with one learned number g for all entries: LayerNorm's
    re-scaling without its centring.

    Shapes: x [..., D] -> [..., D]; `weight` is g, [1] (FSDP shards no 0-dimensional parameter), one
    at the start. Dtypes as in `RMSNorm`.

    Source: Nguyen & Salazar 2019, Transformers without Tears (ScaleNorm), which writes g x / |x|:
    its g is sqrt(D) times this one. Usual mistake: loading that g, which is about sqrt(D), without
    dividing it by sqrt(D).
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps)
        self.weight = nn.Parameter(torch.ones(1))


class CenterNorm(_Affine):
    """y = (x - mean(x)) * weight, over the last dimension: LayerNorm's centring without its
    re-scaling.

    Shapes: x [..., D] -> [..., D], weight [D], ones at the start. The mean and the difference are
    float32 (float64 stays), cast back before the weight. Shift invariant; a scaled input gives an
    output scaled alike, so this alone does not bound activations. With weights of one,
    ScaleNorm(CenterNorm(x)) is LayerNorm(x): the pair takes apart what LayerNorm does at once, to
    ask which half is needed.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        wide = _widened(x)
        return self.weight * (wide - wide.mean(-1, keepdim=True)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"({self.weight.numel()},)"


class LayerNorm(_Affine):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the trailing dimensions `shape`.

    Shapes: x [..., *shape] -> the same; weight and bias `shape`, ones and zeros at the start. A
    language model's shape is the width D: [B, T, D] has B T means, one a position. In vision it is
    often (channels, height, width): one mean an image. No mean is shared over the batch. The
    variance is the biased one (divided by the number of entries). PyTorch's fused kernel: for half
    formats statistics, weight and bias in float32 and one rounding at the end. Invariant to shift
    and (for eps -> 0) to scale. weight and bias both False is the form without parameters.

    Source: Ba, Kiros & Hinton 2016, Layer Normalization, section 3. Usual mistakes: `Tensor.var`'s
    default, the unbiased variance; statistics over the positions too, which lets a position see the
    future.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        eps: float = 1e-5,
        *,
        weight: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.shape)) if weight else None
        self.bias = nn.Parameter(torch.zeros(self.shape)) if bias else None

    def forward(self, x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        weight, bias = self.weight is not None, self.bias is not None
        others = {f"{weight=}", f"{bias=}"} - {"weight=True", "bias=True"}
        return ", ".join([f"{self.shape}, eps={self.eps:g}", *sorted(others)])


class NormalizedLinear(_Affine):
    """y = f(norm(a) + b) with the summed inputs a = x W^T: a linear layer whose pre-activation is
    normalised.

    Shapes: x [..., in] -> [..., out], W [out, in], b [out], zeros at the start. This is where the
    papers on LayerNorm and RMSNorm put the norm (a Transformer normalises x instead), and where
    their invariances hold:

    | norm      | W scaled | 1 v^T added to W | row of W scaled | x scaled | x shifted |
    |-----------|----------|------------------|-----------------|----------|-----------|
    | LayerNorm | same     | same             | differs         | same     | differs   |
    | RMSNorm   | same     | differs          | differs         | same     | differs   |

    Because f(c W x) = f(W x) for c > 0, the gradient with respect to c W is 1/c of that with
    respect to W: a matrix that has grown takes smaller steps, which the paper calls implicit
    learning-rate adaptation.

    norm: over `out_features`, without a bias of its own, as b does that work.
    activation: f; None is the identity.

    Source: Ba, Kiros & Hinton 2016, section 5.1, table 1; Zhang & Sennrich 2019, equations 1 and 2
    and their analysis of invariance. Usual mistake: adding b before the norm, which then depends on
    the scale of W.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        norm: nn.Module,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.norm = norm
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        y: Tensor = self.activation(self.norm(self.linear(x)) + self.bias)
        return y
