"""Rotary position embedding: queries and keys are rotated by an angle that grows with their
position.

The angles are float32 and the tables belong to the instance: casting a model to bfloat16 leaves
them alone, because a bfloat16 phase is wrong by whole turns beyond a few hundred positions. Costs 2
multiplications and an addition per element of Q and K.

The same rotation is written in four forms, which tests hold together. `rotate`, half-split, is the
one that models here use; `rotate_interleaved` is that of Meta's weights, `rotate_complex` and
`rotation_matrix` are how papers write it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from puna.nn.rope_scaling import FrequencyScaling


def rope_frequencies(head_width: int, base: float) -> Float[Tensor, "{head_width}//2"]:
    """theta_i = base^(-2i/C) for i in [0, C/2), radians per position, float32 on the CPU.

    Source: Su et al. 2021, RoFormer, section 3.2.2.
    """
    return base ** (-torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width)


class RotaryEmbedding(nn.Module):
    """Tables of cos(m theta_i) and sin(m theta_i) for every position m below `context_length`.

    scaling: stretches the frequencies, such as `Llama3Scaling`; its attention factor multiplies
    both tables. fraction: of the entries of a head, the first ones, that are turned, as if the head
    were so wide; Phi-4-mini has 0.75. `cos` and `sin` are float32 [context, C/2] and stay so under
    `.to(bfloat16)`; they are no part of the state dict, and are not filled on the meta device.

    A position outside [0, context) raises IndexError on a CPU, a negative one too. On a GPU it is
    the caller's duty to give none: a check would make every step wait for the device.

    Usual mistake: phases in the model's dtype, or tables that a cast of the model takes along.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_width: int,
        context_length: int,
        base: float = 10000.0,
        scaling: FrequencyScaling | None = None,
        fraction: float = 1.0,
    ) -> None:
        super().__init__()
        width = int(head_width * fraction)
        if width % 2 or width < 1:
            said = f"head width {head_width}" + (f" times {fraction:g}" if fraction != 1 else "")
            raise ValueError(
                f"{said} is {'odd' if width else 'nothing'}, but rotary positions turn pairs of"
                " entries: use an even one"
            )
        frequencies = rope_frequencies(width, base)
        self.frequencies = frequencies if scaling is None else scaling(frequencies)
        self.attention_factor = 1.0 if scaling is None else scaling.attention_factor
        self.context_length = context_length
        self._fill(torch.empty(0).device)

    def _fill(self, device: torch.device) -> None:
        if device.type == "meta":
            empty = torch.empty(self.context_length, len(self.frequencies), device=device)
            self.register_buffer("cos", empty, persistent=False)
            self.register_buffer("sin", empty, persistent=False)
            return
        phases = torch.outer(
            torch.arange(self.context_length, dtype=torch.float32, device="cpu"), self.frequencies
        )
        self.register_buffer(
            "cos", (self.attention_factor * phases.cos()).to(device), persistent=False
        )
        self.register_buffer(
            "sin", (self.attention_factor * phases.sin()).to(device), persistent=False
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":  # noqa: ARG002
        """Follow the module to a new device, never to a new dtype; leaving the meta device fills
        the tables.
        """
        self._fill(fn(self.cos).device)
        return self

    def forward(
        self, positions: Int[Tensor, "*B T"]
    ) -> tuple[Float[Tensor, "*B 1 T half"], Float[Tensor, "*B 1 T half"]]:
        """The cos and sin of each position, with an axis for the heads: what `rotate` takes."""
        return F.embedding(positions, self.cos).unsqueeze(-3), F.embedding(
            positions, self.sin
        ).unsqueeze(-3)

    def extra_repr(self) -> str:
        return f"head_width={2 * self.frequencies.numel()}, context_length={self.context_length}"


def rotate(
    x: Float[Tensor, "B H T C"], cos: Float[Tensor, "..."], sin: Float[Tensor, "..."]
) -> Float[Tensor, "B H T C"]:
    """Turn the pair (x_i, x_(i + C/2)) by its angle, for every i below C/2: the half-split layout
    of Hugging Face.

        y_i         = x_i cos(m theta_i) - x_(i + C/2) sin(m theta_i)
        y_(i + C/2) = x_(i + C/2) cos(m theta_i) + x_i sin(m theta_i)

    Tables of fewer than C/2 columns turn the first entries of x, as if they were the head, and
    leave the rest alone. Arithmetic in the wider dtype of x and the tables, float32 or float64;
    rounded once, to the dtype of x.

    Source: Su et al. 2021, RoFormer, section 3.4.2, with the entries in another order. Usual
    mistake: rotating V too, or loading Meta's layout without `interleaved_to_half_split` (the loss
    is then plausible, and wrong).
    """
    width = 2 * cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def rotate_interleaved(
    x: Float[Tensor, "B H T C"], cos: Float[Tensor, "..."], sin: Float[Tensor, "..."]
) -> Float[Tensor, "B H T C"]:
    """Turn the pair (x_2i, x_(2i+1)) by its angle: the layout of the paper, and of Meta's published
    weights. Dtypes as in `rotate`.

    Source: Su et al. 2021, RoFormer, section 3.4.2, equation 34.
    """
    even, odd = x[..., ::2], x[..., 1::2]
    return (
        torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
        .flatten(-2)
        .to(x.dtype)
    )


def rotate_complex(
    x: Float[Tensor, "B H T C"], cos: Float[Tensor, "..."], sin: Float[Tensor, "..."]
) -> Float[Tensor, "B H T C"]:
    """(x_2i + j x_(2i+1)) e^(j m theta_i) with j^2 = -1: `rotate_interleaved` as one complex
    product, as Meta's code has it.

    Source: Su et al. 2021, RoFormer, section 3.2.1, equation 12. PyTorch has no complex bfloat16,
    so the factors are widened first.
    """
    pairs = x.to(torch.promote_types(x.dtype, cos.dtype)).reshape(*x.shape[:-1], -1, 2).contiguous()
    turned = torch.view_as_complex(pairs) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def rotation_matrix(angles: Float[Tensor, "*B half"]) -> Float[Tensor, "*B 2*half 2*half"]:
    """R, block-diagonal with [[cos a_i, -sin a_i], [sin a_i, cos a_i]] in rows and columns 2i and
    2i+1; y = R x is `rotate_interleaved`.

    R_m^T R_n = R_(n-m), which is why scores depend on the distance alone. For reading and for
    proofs: C^2 products where 2 C do.

    Source: Su et al. 2021, RoFormer, section 3.2.2, equation 15.
    """
    cos, sin = angles.cos(), angles.sin()
    # the entries (2i+1, 2i), with zeros between blocks
    below = torch.stack((sin, torch.zeros_like(sin)), dim=-1).flatten(-2)[..., :-1]
    return (
        cos.repeat_interleave(2, dim=-1).diag_embed() + below.diag_embed(-1) - below.diag_embed(1)
    )


def interleaved_to_half_split(
    weight: Float[Tensor, "rows *rest"], num_heads: int
) -> Float[Tensor, "rows *rest"]:
    """Reorder the outputs of a query or key projection [H C, D] so that `rotate` does what
    `rotate_interleaved` did: Meta's to ours.

    Within each head, row 2i goes to i and row 2i+1 to i + C/2. Scores are unchanged, because q and
    k are reordered alike. A bias [H C] is reordered the same way, and a QK-norm's weight [C] as a
    single head.

    Usual mistake: reordering the key projection with the number of query heads, or the value
    projection at all.
    """
    return _of_heads(weight, num_heads, (-1, 2)).transpose(1, 2).flatten(0, 2)


def half_split_to_interleaved(
    weight: Float[Tensor, "rows *rest"], num_heads: int
) -> Float[Tensor, "rows *rest"]:
    """The inverse of `interleaved_to_half_split`: ours to Meta's."""
    return _of_heads(weight, num_heads, (2, -1)).transpose(1, 2).flatten(0, 2)


def _of_heads(weight: Tensor, num_heads: int, pairs: tuple[int, int]) -> Tensor:
    if num_heads < 1 or weight.shape[0] % (2 * num_heads):
        raise ValueError(
            f"{weight.shape[0]} rows are no {num_heads} heads of an even width: give the heads of"
            " this very projection"
        )
    return weight.reshape(num_heads, *pairs, *weight.shape[1:])
