"""Attention with its options: sliding window, documents, ALiBi, QK-norm, no positions. Formulas,
transformers, gradients, dtypes.
"""

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from transformers import MistralConfig, MistralModel, Qwen3Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from puna.nn import (
    Attention,
    RMSNorm,
    RotaryEmbedding,
    alibi_slopes,
    attention_mask,
    causal_attention,
    document_numbers,
    softmax_attention,
)

# of 4 heads on 7 positions, two sequences
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 2, 2]])
OPTIONS: dict[str, dict[str, object]] = {
    "window": {"window": 3},
    "documents": {"documents": DOCUMENTS},
    "alibi": {"slopes": alibi_slopes(4)},
    "window and alibi": {"window": 2, "slopes": alibi_slopes(4)},
    "all": {"window": 3, "documents": DOCUMENTS, "slopes": alibi_slopes(4)},
}
EACH_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
EACH_SHARING = pytest.mark.parametrize("kv_heads", [1, 2, 4])


def mask_of(options: dict[str, object], steps: int = 7, seen: int = 7) -> Tensor:
    mask = attention_mask(steps, seen, **options)  # type: ignore[arg-type]
    assert mask is not None
    return mask


def heads(
    kv_heads: int = 4, dtype: torch.dtype = torch.float32, steps: int = 7
) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(2, 4, steps, 8, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, 7, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    return q, k, v


@EACH_OPTION
@EACH_SHARING
def test_the_fused_kernel_equals_the_reference_with_gradients(
    options: dict[str, object], kv_heads: int
) -> None:
    q, k, v = heads(kv_heads, torch.float64)
    mask = mask_of(options)
    fused, reference = causal_attention(q, k, v, mask), softmax_attention(q, k, v, mask)
    torch.testing.assert_close(fused, reference, rtol=0, atol=1e-12)
    weights = torch.randn_like(fused)
    for mine, expected in zip(
        *(torch.autograd.grad(out, (q, k, v), weights) for out in (fused, reference)), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attend", [softmax_attention, causal_attention])
def test_a_mask_of_the_causal_rule_changes_nothing(attend: Callable[..., Tensor]) -> None:
    for steps in (1, 3, 7):
        q, k, v = heads(2, torch.float64, steps)
        visible = torch.ones(1, 1, steps, 7, dtype=torch.bool).tril(7 - steps)
        for mask in (
            visible,
            torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -torch.inf),
        ):
            torch.testing.assert_close(attend(q, k, v, mask), attend(q, k, v), rtol=0, atol=1e-12)


@pytest.mark.parametrize("attend", [softmax_attention, causal_attention])
def test_alibi_is_its_formula(attend: Callable[..., Tensor]) -> None:
    """softmax over keys of q k / sqrt(C) - slope (distance), a query, a head and a key at a time; 3
    queries at the end of 7 positions.
    """
    q, k, v = (tensor.detach() for tensor in heads(2, torch.float64, steps=3))
    expected, slopes = torch.zeros_like(q), [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    for batch, head, row in itertools.product(range(2), range(4), range(3)):
        position = 4 + row
        scores = torch.stack(
            [q[batch, head, row] @ k[batch, head // 2, key] / 8**0.5 for key in range(position + 1)]
        )
        scores -= slopes[head] * (position - torch.arange(position + 1))
        expected[batch, head, row] = scores.softmax(0) @ v[batch, head // 2, : position + 1]
    mask = mask_of({"slopes": alibi_slopes(4)}, 3)
    torch.testing.assert_close(attend(q, k, v, mask), expected, rtol=0, atol=1e-12)


def test_alibi_equals_the_translated_form_of_transformers() -> None:
    """BLOOM adds slope * key position, which a softmax cannot tell from -slope * distance."""
    q, k, v = heads(4, torch.float64)
    theirs = (
        build_alibi_tensor(torch.ones(1, 7), 4, torch.float64).view(1, 4, 1, 7).expand(1, 4, 7, 7)
    )
    theirs = theirs.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf)
    expected = softmax_attention(q, k, v, theirs)
    torch.testing.assert_close(
        causal_attention(q, k, v, mask_of({"slopes": alibi_slopes(4)})), expected, rtol=0, atol=1e-7
    )


def test_alibi_in_bfloat16_is_as_good_as_bfloat16() -> None:
    """The bias is rounded to the dtype of q after it was computed; on 2,000 keys no weight moves by
    more than 2^-9 of the largest.
    """
    bias = mask_of({"slopes": alibi_slopes(4)}, 1, 2000)
    exact, rounded = bias.softmax(-1), bias.bfloat16().float().softmax(-1)
    assert ((rounded - exact).abs() <= 2**-9 * exact.amax(-1, keepdim=True)).all()


@EACH_OPTION
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attend", [softmax_attention, causal_attention])
def test_keeps_the_dtype_and_stays_close(
    attend: Callable[..., Tensor], dtype: torch.dtype, options: dict[str, object]
) -> None:
    q, k, v = heads(2, dtype)
    out = attend(q, k, v, mask_of(options))
    assert out.dtype == dtype
    exact = softmax_attention(q.double(), k.double(), v.double(), mask_of(options))
    torch.testing.assert_close(
        out.double(), exact, rtol=0, atol=2e-6 if dtype == torch.float32 else 0.04
    )


@EACH_OPTION
@EACH_SHARING
def test_gradients_reach_the_visible_positions_and_no_other(
    options: dict[str, object], kv_heads: int
) -> None:
    """d y_t / d x_s through a whole layer: zero for the future, outside the window and in other
    documents; not zero elsewhere.
    """
    layer, mask = Attention(16, 4, kv_heads, 8, qk_norm=RMSNorm), mask_of(options)
    x, rotary = torch.randn(2, 7, 16, requires_grad=True), RotaryEmbedding(8, 7)(torch.arange(7))
    y = layer(x, rotary, mask=mask)
    visible = (mask if mask.dtype == torch.bool else mask.isfinite())[:, 0].expand(2, 7, 7)
    for query in range(7):
        (gradient,) = torch.autograd.grad(y[:, query].sum(), x, retain_graph=True)
        assert torch.equal(gradient.abs().sum(-1) > 0, visible[:, query])


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_sliding_window_equals_transformers(window: int) -> None:
    """Mistral's attention inside its model, which makes the mask; 2 layers on 9 positions."""
    config = MistralConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=16,
        sliding_window=window,
        attn_implementation="eager",
    )
    model, ours = MistralModel(config).eval(), Attention(16, 4, 2, 8)
    rotary, mask = RotaryEmbedding(8, 16)(torch.arange(9)), attention_mask(9, 9, window=window)
    seen = []

    def compare(
        theirs: torch.nn.Module, _: object, inputs: dict[str, Tensor], outputs: tuple[Tensor, ...]
    ) -> None:
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(
            ours(inputs["hidden_states"], rotary, mask=mask), outputs[0], rtol=1e-4, atol=1e-6
        )
        seen.append(theirs)

    for layer in model.layers:
        layer.self_attn.register_forward_hook(compare, with_kwargs=True)
    with torch.no_grad():
        model(torch.randint(11, (2, 9)))
    assert len(seen) == 2


@EACH_SHARING
def test_qk_norm_equals_transformers(kv_heads: int) -> None:
    config = Qwen3Config(
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=8,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    theirs, ours = (
        Qwen3Attention(config, layer_idx=0),
        Attention(16, 4, kv_heads, 8, qk_norm=partial(RMSNorm, eps=1e-6)),
    )
    with torch.no_grad():
        for norm in (theirs.q_norm, theirs.k_norm):
            norm.weight.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    x, rotary = torch.randn(2, 9, 16), RotaryEmbedding(8, 9)(torch.arange(9))
    double = tuple(torch.cat((table, table), dim=-1).squeeze(0)[None] for table in rotary)
    future = torch.zeros(9, 9).masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -torch.inf)
    expected, _ = theirs(x, double, future[None, None])
    torch.testing.assert_close(ours(x, rotary), expected, rtol=1e-5, atol=1e-6)


def test_without_qk_norm_there_are_no_norms() -> None:
    names = [f"{part}_proj.weight" for part in "qkvo"]
    assert list(Attention(8, 2, 1, 4).state_dict()) == names
    assert list(Attention(8, 2, 1, 4, qk_norm=RMSNorm).state_dict()) == [
        *names,
        "q_norm.weight",
        "k_norm.weight",
    ]


def test_qk_norm_makes_scores_independent_of_the_size_of_queries_and_keys() -> None:
    plain, normed = (
        Attention(16, 4, 2, 8),
        Attention(16, 4, 2, 8, qk_norm=partial(RMSNorm, eps=0.0)),
    )
    x = torch.randn(1, 9, 16)
    before = [layer(x) for layer in (plain, normed)]
    with torch.no_grad():
        for layer in (plain, normed):
            layer.q_proj.weight *= 10
            layer.k_proj.weight *= 10
    after = [layer(x) for layer in (plain, normed)]
    torch.testing.assert_close(after[1], before[1], rtol=1e-5, atol=1e-6)
    assert (after[0] - before[0]).abs().max() > 1e-2


def test_qk_norm_under_autocast_hands_bfloat16_to_the_cache() -> None:
    """The norm's float32 weight must not widen keys, nor take training off the road for
    bfloat16.
    """
    kept = []

    class Cache:
        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept.extend((q.dtype, k.dtype, v.dtype))
            return q

    layer = Attention(16, 2, 1, 8, qk_norm=RMSNorm)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(1, 3, 16), RotaryEmbedding(8, 3)(torch.arange(3)), Cache())
    assert kept == [torch.bfloat16] * 3


def test_documents_in_one_window_equal_documents_alone() -> None:
    """Positions count on through the window: rotations leave only distances, so a document may
    start anywhere.
    """
    separator, layer, tables = 1, Attention(16, 4, 2, 8, qk_norm=RMSNorm), RotaryEmbedding(8, 12)
    ids = torch.tensor([[7, 7, 1, 5, 5, 5, 1, 6, 1, 1, 3, 3]])
    x = torch.randn(1, 12, 16)
    mask = attention_mask(12, 12, documents=document_numbers(ids, separator))
    packed = layer(x, tables(torch.arange(12)), mask=mask)
    alone = []
    for start, end in ((0, 2), (2, 6), (6, 8), (8, 9), (9, 12)):
        alone.append(layer(x[:, start:end], tables(torch.arange(end - start))))
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-5, atol=1e-6)


def test_without_positions_earlier_ones_have_no_order() -> None:
    """The last output is the same whatever the order of those before it; with rotations or ALiBi it
    is not.
    """
    layer, x = Attention(16, 4, 2, 8), torch.randn(1, 6, 16)
    shuffled = x[:, [3, 0, 4, 2, 1, 5]]
    torch.testing.assert_close(layer(shuffled)[:, -1], layer(x)[:, -1], rtol=1e-5, atol=1e-6)
    rotary, mask = (
        RotaryEmbedding(8, 6)(torch.arange(6)),
        attention_mask(6, 6, slopes=alibi_slopes(4)),
    )
    for arguments in ({"rotary": rotary}, {"mask": mask}):
        assert (layer(shuffled, **arguments) - layer(x, **arguments))[:, -1].abs().max() > 1e-3


def test_masks_of_another_shape_or_of_integers_are_caught() -> None:
    q, k, v = heads()
    for mask in (
        torch.ones(1, 1, 7, 6, dtype=torch.bool),
        torch.ones(1, 3, 7, 7),
        torch.ones(1, 1, 7, 7, dtype=torch.long),
    ):
        with pytest.raises(TypeCheckError):
            causal_attention(q, k, v, mask)
