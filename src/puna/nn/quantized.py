"""Linear layers whose weight is kept in four bits an entry, and the swap that gives a model such
layers.

Not here: training the weight (it is codes, and has no gradient; the input's gradient is right),
quantized activations, and speed. Every forward pass unpacks the whole weight, through float32,
before it multiplies: what shrinks is the memory at rest, not the time, and for the length of one
layer its full-width copy exists again.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["nf4", "int4"]

# What each code stands for, in units of its group's scale; ascending, and the last is the largest
# magnitude that is used.
LEVELS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        # Dettmers et al. 2023, QLoRA, appendix E: quantiles of the normal distribution that meet at
        # an exact 0, one more of them above it
        "nf4": (
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
            *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
            *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
            *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
        ),
        # code - 8, as integer kernels read it; -8 itself has no positive twin and is never written
        "int4": tuple(float(level) for level in range(-8, 8)),
    }
)


class Linear4bit(nn.Module):
    """y = x W^T + b with W_oi = level[code_oi] * scale_og, one scale for each `group` consecutive
    inputs i of a row o.

    scale = max|w| of the group / the largest level, rounded to bfloat16; code = the level nearest
    to w / scale. With the scale as stored, each entry is off by at most half the widest gap between
    levels: int4  levels -7 ... 7, evenly spaced:          |w - W| <= scale / 2     = 0.071 max|w|
    nf4   16 normal quantiles in -1 ... 1, with 0: |w - W| <= 0.152 scale   = 0.152 max|w| int4 has
    the smaller worst case. For normal weights, which trained ones resemble, nf4 has the smaller
    root mean square, because its levels are dense where the weights are: 0.092 against 0.108 of
    their standard deviation, in groups of 64.

    Shapes: x [..., I] -> [..., O]; codes [O, G * group / 2], two a byte, the first in the high
    half; scales [O, G], G = ceil(I / group): a row's last group is filled up with zeros. That is 4
    + 16/group bits an entry where group divides I: 4.25 for 64, and 16 / 4.25 = 3.76 times less
    than bfloat16. W is computed in float32 and rounded to the dtype of x, in which the product is
    taken. bfloat16 for the scales because it has float32's range (no weight overflows or vanishes
    in it) and because neither `model.bfloat16()` nor `model.float()` changes them. The state dict
    holds the codes, not their kind.

    Source: Dettmers et al. 2023, QLoRA, section 3, "4-bit NormalFloat Quantization" (blocks of 64,
    absolute maximum); without its second quantization, of the scales. Usual mistakes: choosing
    codes by the scale before it is rounded, which adds the rounding to the error; a group of zeros,
    whose 0/0 turns the layer into NaN.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        kind: Kind = "nf4",
        group: int = 64,
    ) -> None:
        super().__init__()
        if kind not in LEVELS:
            raise ValueError(
                f"kind {kind!r} is no way to spend four bits; choose from {', '.join(LEVELS)}"
            )
        if group <= 0 or group % 2:
            raise ValueError(
                f"group {group} cannot share a scale: two codes share a byte, so give a positive"
                " even number, such as 64"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.kind = kind
        self.group = group
        groups = -(-in_features // group)
        self.register_buffer(
            "codes", torch.zeros(out_features, groups * group // 2, dtype=torch.uint8)
        )
        self.register_buffer("scales", torch.zeros(out_features, groups, dtype=torch.bfloat16))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, kind: Kind = "nf4", group: int = 64) -> "Linear4bit":
        """The same layer with its weight rounded to four bits, on the same device; the bias is
        shared, not copied.
        """
        with torch.device("meta"):
            rounded = cls(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                kind=kind,
                group=group,
            )
        # Built on the meta device: the empty buffers never took memory
        rounded.codes, rounded.scales = _quantize(linear.weight.detach(), kind, group)
        rounded.bias = linear.bias
        return rounded.train(linear.training)

    def dequantize(self) -> Float[Tensor, "O I"]:
        """The weight that the codes stand for, in float32."""
        levels = torch.tensor(LEVELS[self.kind], dtype=torch.float32, device=self.codes.device)
        # row 16 a + b is what a byte of the codes a and b stands for
        pairs = torch.cartesian_prod(levels, levels)
        groups = pairs[self.codes.int()].view(self.out_features, -1, self.group)
        return (groups * self.scales.float().unsqueeze(-1)).flatten(1)[:, : self.in_features]

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return F.linear(x, self.dequantize().to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        others = (f", kind={self.kind}" if self.kind != "nf4" else "") + (
            f", group={self.group}" if self.group != 64 else ""
        )
        return (
            f"in_features={self.in_features}, out_features={self.out_features},"
            f" bias={self.bias is not None}{others}"
        )


def _quantize(
    weight: Float[Tensor, "O I"], kind: Kind, group: int
) -> tuple[UInt8[Tensor, "O packed"], Float[Tensor, "O groups"]]:
    levels = torch.tensor(LEVELS[kind], dtype=torch.float32, device=weight.device)
    groups = (
        F.pad(weight.float(), (0, -weight.shape[1] % group))
        .contiguous()
        .view(weight.shape[0], -1, group)
    )
    # Rounded before the codes are chosen, so that these make up for the rounding
    scales = (groups.abs().amax(-1) / levels[-1]).bfloat16()
    units = groups / scales.float().masked_fill(scales == 0, 1.0).unsqueeze(-1)
    # The borders are the midpoints of neighbouring levels: the bucket is the nearest level
    codes = (
        torch.bucketize(units, (levels[1:] + levels[:-1]) / 2, out_int32=True)
        .to(torch.uint8)
        .flatten(1)
    )
    return codes[:, ::2] << 4 | codes[:, 1::2], scales


def quantize_linears(
    model: nn.Module, *, kind: Kind = "nf4", group: int = 64, keep: Collection[str] = ("lm_head",)
) -> None:
    """Put a `Linear4bit` in the place of every `nn.Linear` inside the model, but for those whose
    dotted name ends in one of `keep`.

    Changes the model. Embeddings stay, and so does the output layer: what its rounding does falls
    on the logits at once, and the decoder reads its weight by itself. Subclasses of `nn.Linear`
    stay too, for they mean something else by their weight. One layer at a time, whose old weight is
    let go before the next one's turn: memory holds the model and the working copies of one layer,
    never two models. On the meta device only the structure changes.
    """
    kept = tuple(f".{name}" for name in keep)
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and not f".{name}".endswith(kept)
    ]
    # names, not modules: a variable that holds the old layer would hold its weight
    for name in names:
        parent, _, child = name.rpartition(".")
        rounded = Linear4bit.from_linear(
            cast(nn.Linear, model.get_submodule(name)), kind=kind, group=group
        )
        setattr(model.get_submodule(parent), child, rounded)
