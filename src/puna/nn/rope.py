"""Rotary position embedding: queries and keys are rotated by an angle that grows with their position.

The angles are float32 and the tables belong to the instance: casting a model to bfloat16 leaves them alone, because a bfloat16 phase is
wrong by whole turns beyond a few hundred positions. Costs 2 multiplications and an addition per element of Q and K.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def rope_frequencies(head_width: int, base: float) -> Float[Tensor, "{head_width}//2"]:
    """theta_i = base^(-2i/C) for i in [0, C/2), radians per position, float32 on the CPU.

    Source: Su et al. 2021, RoFormer, section 3.2.2.
    """
    return base ** (-torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width)


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the frequencies, for contexts longer than the `original_context` of pretraining.

    With wavelength w = 2 pi / theta: w < original/high keeps theta; w > original/low divides it by `factor`; between the two,
    (1-s) theta/factor + s theta with s = (original/w - low) / (high - low).

    Source: Llama 3.1's published code (apply_scaling); Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.4.2.
    Usual mistake: comparing frequencies instead of wavelengths, which swaps the two ends.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192

    def __call__(self, frequencies: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
        turns = self.original_context * frequencies / (2 * math.pi)  # full turns within the original context
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1 keeps, 0 divides, between blends
        return kept * frequencies + (1 - kept) * frequencies / self.factor


class RotaryEmbedding(nn.Module):
    """Tables of cos(m theta_i) and sin(m theta_i) for every position m below `context_length`.

    scaling: a function from frequencies to frequencies, such as `Llama3Scaling`.
    `cos` and `sin` are float32 [context, C/2] and stay so under `.to(bfloat16)`; they are no part of the state dict.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_width: int,
        context_length: int,
        base: float = 10000.0,
        scaling: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"head width {head_width} is odd, but rotary positions turn pairs of entries: use an even one")
        frequencies = rope_frequencies(head_width, base)
        self.frequencies = frequencies if scaling is None else scaling(frequencies)
        self.context_length = context_length
        self._fill(torch.empty(0).device)

    def _fill(self, device: torch.device) -> None:
        phases = torch.outer(torch.arange(self.context_length, dtype=torch.float32, device="cpu"), self.frequencies)
        self.register_buffer("cos", phases.cos().to(device), persistent=False)
        self.register_buffer("sin", phases.sin().to(device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":  # noqa: ARG002
        """Follow the module to a new device, never to a new dtype; leaving the meta device fills the tables."""
        self._fill(fn(self.cos).device)
        return self

    def forward(self, positions: Int[Tensor, "*B T"]) -> tuple[Float[Tensor, "*B 1 T half"], Float[Tensor, "*B 1 T half"]]:
        """The cos and sin of each position, with an axis for the heads: what `rotate` takes."""
        return self.cos[positions].unsqueeze(-3), self.sin[positions].unsqueeze(-3)

    def extra_repr(self) -> str:
        return f"head_width={2 * self.frequencies.numel()}, context_length={self.context_length}"


def rotate(x: Float[Tensor, "B H T C"], cos: Float[Tensor, "..."], sin: Float[Tensor, "..."]) -> Float[Tensor, "B H T C"]:
    """Turn the pair (x_i, x_(i + C/2)) by its angle, for every i below C/2: the half-split layout of Hugging Face.

    Arithmetic in float32, result in the dtype of x. Meta's published weights pair (x_2i, x_2i+1) instead; they are permuted on reading.
    Usual mistake: rotating V too, or loading Meta's layout without the permutation (the loss is then plausible, and wrong).
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
