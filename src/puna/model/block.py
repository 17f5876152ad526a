"""One layer of the decoder: an attention and a feed-forward sublayer, and where the norms stand
around them.

Each placement is one class: the names of its norms, and `forward`, which is its formula. What
stands in them (which attention, which feed-forward, which norm) is the builder's choice. The names
of the norms are Hugging Face's.
"""

# ruff: noqa: RET504  (two sublayers, two lines, and then the result)

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from puna.nn.attention import KeyValueCache
from puna.nn.gated_linear import ConvolutionalFeedForward

# what follows x on its way to attention: rotary, cache, mask
Rest = tuple[Tensor, Tensor] | KeyValueCache | Tensor | None


class Block(nn.Module):
    """The base of every placement: x [B, T, D] -> [B, T, D], through `self_attn` and `mlp`.

    The sums are taken in the wider dtype of x and of what is added, so that under autocast a
    float32 stream stays float32. A call is block(x, rotary, cache, mask): what comes after x is
    passed on to attention, in the order and with the meaning of `Attention`.

    self_attn, mlp: the sublayers, [B, T, D] -> [B, T, D]. norm: makes one more norm over D, called
    once for each name in `norms`. `final_norm`: whether the residual stream leaves the last block
    unnormalised, so that the decoder must normalise it once more.
    """

    norms: ClassVar[tuple[str, ...]]
    final_norm: ClassVar[bool] = True

    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    pre_feedforward_layernorm: nn.Module
    post_feedforward_layernorm: nn.Module

    def __init__(self, self_attn: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.mlp = mlp
        self.looks_back = isinstance(mlp, ConvolutionalFeedForward)
        for name in self.norms:
            self.add_module(name, norm())

    def feed_forward(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        """The feed-forward sublayer; one that looks back is given the cache of `rest`."""
        out: Tensor = self.mlp(x, rest[1]) if self.looks_back and len(rest) > 1 else self.mlp(x)
        return out


class PreNormBlock(Block):
    """x = x + attention(norm(x)); x = x + feed_forward(norm(x)): LLaMA's.

    The residual stream itself is never normalised: its variance grows with depth, gradients reach
    every layer through a path without norms, and a final norm is due. At initialisation the last
    layers' gradients fall like 1/sqrt(L).

    Source: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1 (b).
    Usual mistake: leaving out the final norm.
    """

    norms = ("input_layernorm", "post_attention_layernorm")

    def forward(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        return self.feed_forward_half(self.attention_half(x, *rest), *rest)

    def attention_half(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        """x + attention(norm(x))"""
        out: Tensor = x + self.self_attn(self.input_layernorm(x), *rest)
        return out

    def feed_forward_half(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        """x + feed_forward(norm(x))"""
        return x + self.feed_forward(self.post_attention_layernorm(x), *rest)


class PostNormBlock(Block):
    """x = norm(x + attention(x)); x = norm(x + feed_forward(x)): the first Transformer's.

    The stream is normalised after every sublayer, so no final norm is due. At initialisation the
    gradient of the last layers does not fall with depth, where Pre-norm's does: it is about sqrt(L)
    times as large, which is why this placement needs a warm-up.

    Source: Vaswani et al. 2017, section 3.1; Xiong et al. 2020, figure 1 (a) and section 3. Usual
    mistake: comparing it with Pre-norm at one learning rate and without warm-up, which decides the
    comparison.
    """

    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    final_norm = False

    def forward(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        x = self.post_attention_layernorm(x + self.self_attn(x, *rest))
        x = self.post_feedforward_layernorm(x + self.feed_forward(x, *rest))
        return x


class PeriNormBlock(Block):
    """x = x + norm(attention(norm(x))); x = x + norm(feed_forward(norm(x))): around each sublayer,
    also called sandwich.

    What a sublayer adds has a bounded size, so the stream's variance grows linearly with depth at
    most, instead of exponentially once training has made the sublayers strong. Twice the norms of
    Pre-norm.

    Source: Ding et al. 2021, CogView, section 2.4 (Sandwich-LN); Kim et al. 2025, Peri-LN, section
    3; the norms of Gemma 2 and 3. Usual mistake: one norm's weights used on both sides of a
    sublayer.
    """

    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )

    def forward(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), *rest))
        x = x + self.post_feedforward_layernorm(
            self.feed_forward(self.pre_feedforward_layernorm(x), *rest)
        )
        return x


class ReorderedNormBlock(Block):
    """x = x + norm(attention(x)); x = x + norm(feed_forward(x)): on what a sublayer gives, not on
    what it takes.

    The sublayers read the raw stream, which is why its authors normalise queries and keys besides
    (`qk_norm`).

    Source: OLMo et al. 2024, 2 OLMo 2 Furious, section 3.3.1; Liu et al. 2022, Swin Transformer V2,
    section 3.2 (res-post-norm). Usual mistake: taking it for Post-norm: here the sum is not
    normalised, and a final norm is due.
    """

    norms = ("post_attention_layernorm", "post_feedforward_layernorm")

    def forward(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        x = x + self.post_attention_layernorm(self.self_attn(x, *rest))
        x = x + self.post_feedforward_layernorm(self.feed_forward(x, *rest))
        return x


class ParallelBlock(Block):
    """x = x + attention(norm(x)) + feed_forward(norm(x)), with one norm for both: PaLM's.

    The two sublayers do not wait for each other, and their input matrices can be one product; about
    15% faster at PaLM's size.

    Source: Chowdhery et al. 2022, PaLM, section 2 (parallel layers); Wang & Komatsuzaki 2021,
    GPT-J. Usual mistake: a norm for each of the two, which is GPT-NeoX's form and another model.
    """

    norms = ("input_layernorm",)

    def forward(self, x: Float[Tensor, "B T D"], *rest: Rest) -> Float[Tensor, "B T D"]:
        normalised = self.input_layernorm(x)
        x = x + self.self_attn(normalised, *rest) + self.feed_forward(normalised, *rest)
        return x
