"""Positions that are not rotary: vectors added to the embeddings (learned, sinusoidal), and ALiBi's
slopes for the attention scores.

`nn.rope` is what LLaMA uses. No positions at all is one more choice and takes no code: a causal
mask alone lets a decoder count (Haviv et al. 2022, Transformer Language Models without Positional
Encodings Still Learn Positional Information).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from puna.nn.rope import RotaryEmbedding


class LearnedPositions(nn.Embedding):
    """p_m = row m of `weight` [context, D], trained; added to the token embeddings before the first
    layer.

    Positions [..., T] -> [..., T, D] in the dtype of the weight, normal(0, 0.02) at the start.
    Outside [0, context) there is no row and the lookup fails: the model cannot read a longer text
    than this, and rows that training seldom reaches stay near their start.

    Source: Gehring et al. 2017, Convolutional Sequence to Sequence Learning, section 3.1; Radford
    et al. 2018, GPT. Usual mistake: positions that start at 0 again for every piece given to a
    cache.
    """

    def __init__(self, context_length: int, width: int) -> None:
        super().__init__(context_length, width)

    def reset_parameters(self) -> None:
        """Radford et al. 2018: the standard deviation of the token embeddings, 0.02; PyTorch's 1
        would drown them.
        """
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, "*B T D"]:
        return super().forward(positions)


class SinusoidalPositions(nn.Module):
    """p_m[2i] = sin(m theta_i), p_m[2i+1] = cos(m theta_i), theta_i = 10000^(-2i/D); added to the
    token embeddings.

    Positions [..., T] -> [..., T, D], float32 whatever the model's dtype: cast the result to that
    of the embeddings. Nothing is learned. The phases are those of `RotaryEmbedding`, as are its
    tables: p_(m+n) is p_m turned by n theta_i in each pair. But a sum mixes them with the content,
    where a rotation leaves scores that know the distance alone.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 3.5. Usual mistakes: sines in
    the first half and cosines in the second, which is the layout of tensor2tensor and not of the
    paper; embeddings of size 0.02 beside sines of size 1 (section 3.4 multiplies the embeddings by
    sqrt(D)).
    """

    def __init__(self, context_length: int, width: int) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(
                f"width {width} is odd, but sinusoidal positions are pairs of a sine and a cosine:"
                " use an even one"
            )
        self.tables = RotaryEmbedding(width, context_length)

    def forward(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, "*B T D"]:
        cos, sin = (table.squeeze(-3) for table in self.tables(positions))
        return torch.stack((sin, cos), dim=-1).flatten(-2)


def alibi_slopes(num_heads: int) -> Float[Tensor, "{num_heads}"]:
    """The slopes by which each head's scores fall with distance: score(q, k) - slope_h * (position
    of q - position of k).

    For H a power of two, the geometric sequence 2^(-8/H), 2^(-16/H), ..., 2^-8: 8 heads have 1/2,
    1/4, ..., 1/256. Otherwise, with n the power of two below H, the n slopes of n heads and then
    every other one of 2n heads, from the first: 12 heads have 1/2 ... 1/256 and 2^-0.5, 2^-1.5,
    2^-2.5, 2^-3.5. Float32 on the CPU; `attention_mask` makes the bias of them. Nothing is learned,
    nothing is added to the embeddings, and no position is too large.

    Source: Press et al. 2022, Train Short, Test Long (ALiBi), section 3; heads that are no power of
    two as in its published code. Usual mistakes: multiplying positions in bfloat16, which has none
    of the odd numbers above 256; sorting the slopes of 12 heads.
    """
    if num_heads < 1:
        raise ValueError(f"{num_heads} heads have no slopes: give 1 or more")
    power = 2 ** (num_heads.bit_length() - 1)
    # in steps of 2^(-4/n)
    exponents = [*range(2, 2 * power + 1, 2), *range(1, 2 * (num_heads - power), 2)]
    return torch.tensor([2.0 ** (-4 * exponent / power) for exponent in exponents], device="cpu")
