"""Arithmetic about models against models that were built, run and counted."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from puna.inference.kv_cache import PagedCache
from puna.model.accounting import (
    count_parameters,
    forward_flops_per_token,
    kv_bytes_per_token,
    training_flops_per_token,
)
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.nn import attention, linear_cross_entropy, softmax_attention


@st.composite
def configs(draw: Any) -> ModelConfig:
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 200)),
        width=draw(st.integers(1, 40)),
        num_layers=draw(st.integers(1, 4)),
        num_heads=kv_heads * groups,
        num_kv_heads=kv_heads,
        head_width=2 * draw(st.integers(1, 8)),
        feed_forward_width=draw(st.integers(1, 60)),
        context_length=16,
        tie_embeddings=draw(st.booleans()),
    )


@settings(max_examples=50)
@given(config=configs())
def test_parameters_by_part_equal_the_model_s(config: ModelConfig) -> None:
    model = build_transformer(config, "meta")
    counted = {"embedding": 0, "attention": 0, "feed_forward": 0, "norms": 0, "output": 0}
    for name, parameter in model.named_parameters():
        part = {
            "embed_tokens": "embedding",
            "lm_head": "output",
            "self_attn": "attention",
            "mlp": "feed_forward",
        }
        counted[next((value for key, value in part.items() if key in name), "norms")] += (
            parameter.numel()
        )
    assert vars(count_parameters(config)) == counted
    assert count_parameters(config).total == sum(p.numel() for p in model.parameters())


def counted_flops_per_token(model: Transformer, context: int, *, train: bool) -> float:
    ids = torch.randint(0, model.config.vocab_size, (2, context))
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        logits = model(ids)
        if train:
            logits.sum().backward()
    return counter.get_total_flops() / ids.numel()


@pytest.mark.parametrize("context", [1, 5, 32])
@pytest.mark.parametrize("tied", [False, True])
def test_flops_equal_the_counted_ones_but_for_the_masked_half(
    small_model: Any, context: int, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted on the reference attention, since torch's counter knows no figure for the CPU's fused
    kernel.

    The reference multiplies every query with all T keys, 4 L H C T a token; causality shows a query
    (T + 1) / 2 of them on average, and that is what a kernel that skips the masked half computes
    and what Puna's formula says. All the rest must agree to the last FLOP.
    """
    monkeypatch.setattr(attention, "causal_attention", softmax_attention)
    model = small_model(tie_embeddings=tied)
    config = model.config
    masked = (
        4 * config.num_layers * config.num_heads * config.head_width * (context - (context + 1) / 2)
    )
    forward = forward_flops_per_token(config, context) + masked
    assert counted_flops_per_token(model, context, train=False) == forward
    assert counted_flops_per_token(model, context, train=True) == 3 * forward
    assert training_flops_per_token(config, context) == 3 * (forward - masked)


def test_a_large_model_costs_six_flops_a_parameter_and_two_percent_of_attention() -> None:
    """65B at 2,048 tokens: 0.996 of the parameters multiply (not the embedding), and 12 L D (T + 1)
    / 2 is 0.0206 of 6 N.
    """
    config = ModelConfig.model_validate({"preset": "llama-65b"})
    assert training_flops_per_token(config, 2048) / (
        6 * count_parameters(config).total
    ) == pytest.approx(0.996 + 0.0206, abs=1e-3)


@settings(max_examples=20)
@given(
    config=configs(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    int8_cache=st.booleans(),
)
def test_cache_bytes_equal_a_real_cache_s(
    config: ModelConfig, dtype: torch.dtype, int8_cache: bool
) -> None:
    cache = PagedCache(config, num_blocks=3, block_size=7, dtype=dtype, int8_cache=int8_cache)
    scales = (tensor for pair in cache.scales for tensor in pair)
    real = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values, *scales))
    assert real == 3 * 7 * kv_bytes_per_token(config, dtype.itemsize, int8_cache=int8_cache)


def test_published_cache_sizes() -> None:
    """Llama 2 70B shares 8 key/value heads among 64 query heads: an eighth of what 65B needs, at
    the same 80 layers of width 8192.
    """
    sizes = {
        name: kv_bytes_per_token(ModelConfig.model_validate({"preset": name}))
        for name in ("llama-65b", "llama-2-70b", "llama-3-8b")
    }
    assert sizes == {"llama-65b": 2_621_440, "llama-2-70b": 327_680, "llama-3-8b": 131_072}


def test_a_step_keeps_sixteen_bytes_a_parameter_besides_activations(small_model: Any) -> None:
    """float32 weights, gradients and two moments; AdamW's step counters are 4 bytes a tensor
    more.
    """
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, 50, (1, 9))
    linear_cross_entropy(
        model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:]
    ).backward()
    optimizer.step()
    state = [
        value for values in optimizer.state.values() for value in values.values() if value.ndim
    ]
    held = sum(p.nbytes + p.grad.nbytes for p in model.parameters()) + sum(
        value.nbytes for value in state
    )
    assert held == 16 * count_parameters(model.config).total


def test_a_convolution_costs_its_weights_at_every_position() -> None:
    """(2 k + 1) D F multiply-adds a layer and token, and V D; without attention no more, at any
    context.
    """
    shape = {"vocab_size": 50, "width": 8, "num_layers": 3, "num_heads": 2, "context_length": 64}
    layer = {"feed_forward": "convolution", "feed_forward_kernel": 4, "feed_forward_width": 10}
    alone = {"attention": "none", "placement": "parallel", "position": "none"}
    config = ModelConfig.model_validate({**shape, **layer, **alone})
    assert count_parameters(config).attention == 0
    assert count_parameters(config).feed_forward == 3 * 9 * 8 * 10
    for context in (1, 64):
        assert forward_flops_per_token(config, context) == 2 * (3 * 9 * 8 * 10 + 50 * 8)
    assert kv_bytes_per_token(config, 4) == 3 * 8 * 4
    beside = ModelConfig.model_validate({**shape, **layer})
    assert kv_bytes_per_token(beside, 4) == 3 * (2 * 8 + 8) * 4
