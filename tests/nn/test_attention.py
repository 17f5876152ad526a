"""Attention: the three roads against each other and a loop in plain Python, causality, and the
cache.
"""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from puna.nn import (
    Attention,
    RMSNorm,
    RotaryEmbedding,
    alibi_slopes,
    attention_mask,
    blocked_attention,
    causal_attention,
    softmax_attention,
)
from puna.nn.attention import BLOCK, trains_in_blocks


def heads(
    steps: int, seen: int, query_heads: int, kv_heads: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(2, query_heads, steps, 8, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, seen, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    return q, k, v


def assert_same_with_gradients(ours: Tensor, reference: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(ours)
    for mine, expected in zip(
        torch.autograd.grad(ours, inputs, weights),
        torch.autograd.grad(reference, inputs, weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_reference_is_the_definition() -> None:
    """A loop over heads, queries and the keys that they may see: 4 query heads on 2 key heads, 3
    queries at the end of 5 positions.
    """
    q, k, v = (tensor.detach().double() for tensor in heads(3, 5, 4, 2))
    expected = torch.zeros_like(q)
    for batch, head, query in itertools.product(range(2), range(4), range(3)):
        visible = 5 - 3 + query + 1
        scores = [
            float(q[batch, head, query] @ k[batch, head // 2, key]) / 8**0.5
            for key in range(visible)
        ]
        total = sum(torch.tensor(scores).exp())
        for key, score in enumerate(scores):
            expected[batch, head, query] += (
                torch.tensor(score).exp() / total * v[batch, head // 2, key]
            )
    torch.testing.assert_close(softmax_attention(q, k, v), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 77])
def test_blocks_equal_the_reference(steps: int) -> None:
    q, k, v = heads(steps, steps, 3, 3)
    assert_same_with_gradients(blocked_attention(q, k, v), softmax_attention(q, k, v), (q, k, v))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("steps", "seen"),
    [(1, 1), (1, 9), (7, 7), (4, 9), (2 * BLOCK + 5, 2 * BLOCK + 5), (3, 2 * BLOCK + 3)],
)
def test_the_chosen_road_equals_the_reference(steps: int, seen: int, kv_heads: int) -> None:
    q, k, v = heads(steps, seen, 4, kv_heads)
    assert_same_with_gradients(causal_attention(q, k, v), softmax_attention(q, k, v), (q, k, v))


def test_the_chosen_road_equals_the_reference_without_gradients() -> None:
    q, k, v = (tensor.detach() for tensor in heads(2 * BLOCK + 5, 2 * BLOCK + 5, 4, 2))
    torch.testing.assert_close(
        causal_attention(q, k, v), softmax_attention(q, k, v), rtol=1e-4, atol=1e-5
    )


def test_sdpa_equals_the_reference() -> None:
    q, k, v = heads(50, 50, 4, 2)
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert_same_with_gradients(fused, softmax_attention(q, k, v), (q, k, v))


def test_blocks_are_for_bfloat16_on_the_cpu_and_middling_lengths() -> None:
    assert [
        steps for steps in (1, 255, 256, 2048, 2049) if trains_in_blocks("cpu", steps, half=True)
    ] == [256, 2048]
    assert not trains_in_blocks("cpu", 512, half=False)
    assert not trains_in_blocks("cuda", 512, half=True)


@settings(max_examples=20)
@given(
    steps=st.integers(1, 40),
    past=st.integers(0, 40),
    groups=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_constant_values_come_back_unchanged(steps: int, past: int, groups: int, seed: int) -> None:
    """Weights of every query sum to 1: if all visible values are equal, they are the result,
    whatever the scores.
    """
    generator = torch.Generator().manual_seed(seed)
    q = 5 * torch.randn(1, 2 * groups, steps, 4, generator=generator)
    k = torch.randn(1, 2, past + steps, 4, generator=generator)
    for attend in (softmax_attention, causal_attention):
        torch.testing.assert_close(attend(q, k, torch.full_like(k, 1.5)), torch.full_like(q, 1.5))


@pytest.mark.parametrize("attend", [softmax_attention, blocked_attention, causal_attention])
@pytest.mark.parametrize("steps", [6, 2 * BLOCK + 3])
def test_no_query_depends_on_later_positions(attend: type, steps: int) -> None:
    q, k, v = heads(steps, steps, 2, 2)
    for query in (0, steps // 2, steps - 2):
        for gradient in torch.autograd.grad(attend(q, k, v)[:, :, query].sum(), (k, v)):
            assert not gradient[:, :, query + 1 :].any()
            assert gradient[:, :, : query + 1].abs().sum(-1).all() or query == 0, (
                "every earlier position takes part"
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attend", [softmax_attention, blocked_attention, causal_attention])
def test_keeps_the_dtype_and_stays_close(attend: type, dtype: torch.dtype) -> None:
    q, k, v = heads(2 * BLOCK, 2 * BLOCK, 2, 2, dtype)
    out = attend(q, k, v)
    assert out.dtype == dtype
    exact = softmax_attention(q.double(), k.double(), v.double()).to(out.dtype)
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05)


class GrowingCache:
    """The plainest cache that the protocol allows: it joins what it is given, and masks what is
    joined.
    """

    def __init__(self, window: int | None, slopes: Tensor | None) -> None:
        self.held: tuple[Tensor, ...] = ()
        self.window, self.slopes = window, slopes

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.held = (
            tuple(torch.cat(pair, 2) for pair in zip(self.held, (k, v), strict=True))
            if self.held
            else (k, v)
        )
        mask = attention_mask(
            q.shape[2], self.held[0].shape[2], window=self.window, slopes=self.slopes
        )
        return causal_attention(q, *self.held, mask)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("position", "window", "qk_norm"),
    [
        ("rope", None, None),
        ("rope", 3, None),
        ("rope", 1, RMSNorm),
        ("alibi", None, None),
        ("alibi", 2, RMSNorm),
        ("none", None, None),
    ],
)
def test_a_cache_changes_nothing_at_any_split(
    kv_heads: int, position: str, window: int | None, qk_norm: type[RMSNorm] | None
) -> None:
    """A sequence of 6 in one go, and in every one of the 32 ways to cut it into pieces."""
    layer, x = Attention(16, 4, kv_heads, 8, qk_norm=qk_norm), torch.randn(2, 6, 16)
    tables, slopes = RotaryEmbedding(8, 6), alibi_slopes(4) if position == "alibi" else None

    def run(
        start: int, end: int, cache: GrowingCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        rotary = tables(torch.arange(start, end)) if position == "rope" else None
        return layer(x[:, start:end], rotary, cache, mask)

    with torch.no_grad():
        whole = run(0, 6, mask=attention_mask(6, 6, window=window, slopes=slopes))
        for cuts in itertools.chain.from_iterable(
            itertools.combinations(range(1, 6), n) for n in range(6)
        ):
            cache = GrowingCache(window, slopes)
            pieces = [run(start, end, cache) for start, end in itertools.pairwise((0, *cuts, 6))]
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-6)


def test_multi_head_attention_equals_torch() -> None:
    """K = H, every position 0 (so nothing turns), against torch's own module with the same
    weights.
    """
    ours, theirs = (
        Attention(16, 4, 4, 4),
        torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True),
    )
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight])
        )
        theirs.out_proj.weight.copy_(ours.o_proj.weight)
    x = torch.randn(3, 9, 16)
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=future, need_weights=False)
    rotary = RotaryEmbedding(4, 1)(torch.zeros(9, dtype=torch.long))
    torch.testing.assert_close(ours(x, rotary), expected, rtol=1e-5, atol=1e-6)


def test_values_are_not_rotated() -> None:
    """One position alone attends to itself: y = x W_v W_o wherever it stands."""
    layer, x = Attention(8, 2, 2, 4), torch.randn(1, 1, 8)
    expected = layer.o_proj(layer.v_proj(x))
    for position in (0, 5, 30):
        torch.testing.assert_close(
            layer(x, RotaryEmbedding(4, 31)(torch.tensor([position]))), expected
        )


def test_uneven_groups_are_rejected() -> None:
    with pytest.raises(ValueError, match="6 query heads cannot be shared out evenly over 4"):
        Attention(12, 6, 4, 2)


@pytest.mark.parametrize(("bias", "biased"), [("none", ""), ("qkv", "qkv"), ("all", "qkvo")])
def test_biases_are_where_they_were_asked_for(bias: Any, biased: str) -> None:
    layer = Attention(24, 4, 2, 8, bias=bias)
    assert [n for n in "qkvo" if getattr(layer, f"{n}_proj").bias is not None] == list(biased)


def test_one_norm_over_all_heads_has_their_whole_width() -> None:
    """OLMo 2: the statistic is of all heads together, so one head's size moves the others."""
    layer = Attention(24, 4, 2, 8, qk_norm=RMSNorm, qk_norm_over="width")
    assert (layer.q_norm.weight.numel(), layer.k_norm.weight.numel()) == (32, 16)
    x = torch.randn(1, 3, 24)
    q, _ = layer.queries_and_keys(x)
    whole = layer.q_proj(x)
    expected = whole * whole.square().mean(-1, keepdim=True).add(1e-5).rsqrt()
    torch.testing.assert_close(q.transpose(1, 2).flatten(2), expected)
