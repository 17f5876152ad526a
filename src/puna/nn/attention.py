"""Grouped-query causal self-attention, three ways to compute it, and the protocol through which a
cache takes part.

`softmax_attention` is the definition in plain sight, with its scores by themselves as
`attention_scores`. `F.scaled_dot_product_attention` is PyTorch's fused kernel. `blocked_attention`
is for training in bfloat16 on a CPU. Tests hold the three together; `causal_attention` chooses by
device, format and shape.

Without a mask attention is causal and nothing else. A mask of nn/mask.py narrows that: sliding
window, documents, ALiBi.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from puna.nn.rope import rotate

# True where a query sees, or what to add to its scores; one row for all sequences or heads, or one
# for each
Mask = Bool[Tensor, "#B #H T S"] | Float[Tensor, "#B #H T S"]


@runtime_checkable
class KeyValueCache(Protocol):
    """A cache for one layer, as attention needs it: to keep the new keys and values, and to attend
    to them and to those before.
    """

    def attend(
        self, q: Float[Tensor, "B H T C"], k: Float[Tensor, "B K T C"], v: Float[Tensor, "B K T C"]
    ) -> Float[Tensor, "B H T C"]:
        """Store the new keys and values, then attend from each query to all of its own sequence
        that it may see. Changes the cache.

        The cache knows which sequence each of the B T tokens belongs to and what came before it, so
        the causal rule, a window and ALiBi are its business.
        """
        ...


def attention_scores(
    q: Float[Tensor, "B H T C"], k: Float[Tensor, "B K S C"], mask: Mask | None = None
) -> Float[Tensor, "B H T S"]:
    """q k^T / sqrt(C) + mask, -inf where a query does not see: what the softmax is taken of, in
    float32 (float64 if q is).

    The T queries are the last T of the S positions; without a mask query t sees keys up to S - T +
    t. With one the mask says all, the causal rule included. Query head h reads key head h // (H /
    K).

    Source: Vaswani et al. 2017, section 3.2.1; Ainslie et al. 2023, GQA, section 2.2. Usual
    mistake: a mask that is right for T = S and lets a cached query see nothing, or the future.
    """
    # Head k serves H / K neighbouring query heads: repeat_interleave, never repeat
    scores: Tensor = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * q.shape[-1] ** -0.5
    if mask is None:
        # the diagonal S - T lets query t see key t + S - T, its own position
        steps, seen = scores.shape[-2:]
        mask = torch.ones(steps, seen, dtype=torch.bool, device=q.device).tril(seen - steps)
    return scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)


def softmax_attention(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B K S C"],
    v: Float[Tensor, "B K S C"],
    mask: Mask | None = None,
) -> Float[Tensor, "B H T C"]:
    """softmax(q k^T / sqrt(C) + mask) v, the reference: the whole T x S square, with the scores of
    `attention_scores`.

    The weights are rounded to the dtype of v, in which the sum over the values is taken.
    """
    weights: Tensor = attention_scores(q, k, mask).softmax(-1).to(v.dtype)
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


# queries a block: smaller ones pay for more calls, larger ones compute more of the masked half
BLOCK = 128


def blocked_attention(
    q: Float[Tensor, "B H T C"], k: Float[Tensor, "B H T C"], v: Float[Tensor, "B H T C"]
) -> Float[Tensor, "B H T C"]:
    """Causal attention in blocks of queries: each block meets only the keys at or before it, so
    most of the masked half is skipped.

    Plain batched matmuls, softmax in float32: for bfloat16 training on CPUs that compute in it
    (`trains_in_blocks` says why; compare with benchmarks/attention.py). Keeps the probabilities,
    about B H T^2 / 2 elements a layer, for the backward pass.
    """
    future = torch.full((BLOCK, BLOCK), -torch.inf, device=q.device).triu(1)
    # Scaled once, here, instead of each block's larger scores
    q = q * q.shape[-1] ** -0.5
    blocks = []
    for start in range(0, q.shape[2], BLOCK):
        rows = q[:, :, start : start + BLOCK]
        size = rows.shape[2]
        scores = (rows @ k[:, :, : start + size].transpose(-1, -2)).float()
        # only the square on the diagonal has keys that a query must not see
        scores[..., start:] += future[:size, :size]
        blocks.append(scores.softmax(-1).to(v.dtype) @ v[:, :, : start + size])
    return torch.cat(blocks, dim=2)


def trains_in_blocks(device: str, steps: int, *, half: bool) -> bool:
    """True where `causal_attention` takes `blocked_attention` for a training sequence of `steps`
    tokens.

    In bfloat16 on a CPU: on two AVX512-BF16 cores it was found 2.2 times faster than PyTorch's
    kernel at 512 tokens, which the machine of benchmarks/results, without such arithmetic, could
    not repeat. In float32 the kernel is the faster one (benchmarks/attention.py).
    """
    return device == "cpu" and half and 2 * BLOCK <= steps <= 2048


def causal_attention(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B K S C"],
    v: Float[Tensor, "B K S C"],
    mask: Mask | None = None,
) -> Float[Tensor, "B H T C"]:
    """`softmax_attention` in the fastest form for the device and shape."""
    steps, seen = q.shape[2], k.shape[2]
    grouped = q.shape[1] != k.shape[1]
    if mask is not None:
        # the fused kernels want the bias in q's dtype
        mask = mask.to(q.dtype) if mask.is_floating_point() else mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    if (
        q.requires_grad
        and steps == seen
        and trains_in_blocks(q.device.type, steps, half=q.dtype == torch.bfloat16)
    ):
        groups = q.shape[1] // k.shape[1]
        return blocked_attention(
            q, k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        )
    if steps == 1:  # the last position sees all
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    if steps == seen:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    # is_causal aligns queries with the first keys; here they are the last positions
    visible = torch.ones(steps, seen, dtype=torch.bool, device=q.device).tril(seen - steps)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=grouped)


class Attention(nn.Module):
    """y = concat_h(attention(rotate(norm(x W_q)), rotate(norm(x W_k)), x W_v)) W_o.

    Shapes: x [B, T, D] -> [B, T, D]; H query heads and K key/value heads of width C. K = H is
    multi-head, K = 1 multi-query. `rotary`: cos and sin of the T positions, as `RotaryEmbedding`
    gives them; None turns nothing. `cache`: this layer's; it is changed. `mask`: of
    `attention_mask`, for the T queries on the T positions; None is causal. A cache knows what its
    queries see and takes none.

    bias: none; of q, k and v, as in Qwen 2; or of all four projections. qk_norm: makes a norm of
    the width that it is given, such as `RMSNorm`; left out, nothing is normalised. `q_norm` and
    `k_norm` work before the rotation, on each head by itself, over C, or with qk_norm_over `width`
    on all heads at once, over H C and K C, as in OLMo 2. By head they bound the scores at sqrt(C)
    times their largest weights, which keeps the softmax from saturating late in training. Keys are
    cached normalised.

    Source: Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023, GQA, section 2.2; Henry et al.
    2020, Query-Key Normalization for Transformers, in the form of Dehghani et al. 2023, ViT-22B,
    section 2, and Qwen 3; over all heads at once OLMo et al. 2024, 2 OLMo 2 Furious, section 3.3.2.
    Usual mistakes: the one norm with weights of the other, which have C entries, or H C;
    normalising V.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_width: int,
        *,
        bias: Literal["none", "qkv", "all"] = "none",
        qk_norm: Callable[[int], nn.Module] | None = None,
        qk_norm_over: Literal["head", "width"] = "head",
    ) -> None:
        super().__init__()
        if num_heads % num_kv_heads:
            raise ValueError(
                f"{num_heads} query heads cannot be shared out evenly over {num_kv_heads} key/value"
                " heads"
            )
        self.head_width = head_width
        self.qk_norm_over = qk_norm_over
        inner, kv_inner = num_heads * head_width, num_kv_heads * head_width
        self.q_proj = nn.Linear(width, inner, bias=bias != "none")
        self.k_proj = nn.Linear(width, kv_inner, bias=bias != "none")
        self.v_proj = nn.Linear(width, kv_inner, bias=bias != "none")
        self.o_proj = nn.Linear(inner, width, bias=bias == "all")
        whole = qk_norm_over == "width"
        self.q_norm = qk_norm(inner if whole else head_width) if qk_norm else None
        self.k_norm = qk_norm(kv_inner if whole else head_width) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KeyValueCache | None = None,
        mask: Mask | None = None,
    ) -> Float[Tensor, "B T D"]:
        q, k = self.queries_and_keys(x, rotary)
        v = self._split(self.v_proj(x))
        heads = causal_attention(q, k, v, mask) if cache is None else cache.attend(q, k, v)
        out: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return out

    def queries_and_keys(
        self, x: Float[Tensor, "B T D"], rotary: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Float[Tensor, "B H T C"], Float[Tensor, "B K T C"]]:
        """q and k of these T positions as attention takes them: projected, normalised where there
        is `qk_norm`, and turned.
        """
        q, k = self.q_proj(x), self.k_proj(x)
        if self.qk_norm_over == "head":
            q, k = self._split(q), self._split(k)
        if self.q_norm is not None and self.k_norm is not None:
            # under autocast a float32 weight would widen them
            q, k = self.q_norm(q).to(q.dtype), self.k_norm(k).to(k.dtype)
        if self.qk_norm_over == "width":
            q, k = self._split(q), self._split(k)
        return (q, k) if rotary is None else (rotate(q, *rotary), rotate(k, *rotary))

    def _split(self, x: Float[Tensor, "B T HC"]) -> Float[Tensor, "B H T C"]:
        batch, steps, _ = x.shape
        return x.view(batch, steps, -1, self.head_width).transpose(1, 2)


class NoAttention(nn.Module):
    """y = 0: in the place of `Attention` in a model whose feed-forward layers look back themselves.

    Source: Dauphin et al. 2016, Language Modeling with Gated Convolutional Networks, a language
    model of gated convolutions alone. Usual mistake: a feed-forward layer beside it that sees its
    own position only.
    """

    def forward(self, x: Float[Tensor, "B T D"], *_rest: object) -> Float[Tensor, "B T D"]:
        return torch.zeros_like(x)
