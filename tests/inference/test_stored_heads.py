"""Keys and values in int8: the rounding's bound, attention over them, and what a block takes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.inference.kv_cache import PagedCache, Run
from puna.inference.stored_heads import Int8Heads, quantize_heads
from puna.model.config import ModelConfig
from puna.nn.attention import softmax_attention
from puna.nn.mask import attention_mask

HEADS, KV_HEADS, WIDTH = 4, 2, 8
SHAPE = ModelConfig(
    vocab_size=10,
    width=32,
    num_layers=1,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_width=WIDTH,
    context_length=64,
)


def rounded(heads: Tensor) -> Tensor:
    """[..., C] as its codes say it."""
    codes, scales = quantize_heads(heads)
    return codes * scales[..., None]


@settings(max_examples=100)
@given(seed=st.integers(0, 2**20), power=st.integers(-100, 100))
def test_an_entry_is_off_by_at_most_a_254th_of_its_head_s_largest(seed: int, power: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads = torch.randn(5, 3, 16, generator=generator) * 2.0**power
    most = heads.abs().amax(-1, keepdim=True)
    assert ((rounded(heads) - heads).abs() <= most / 254 * (1 + 1e-5)).all()
    codes, scales = quantize_heads(heads)
    assert codes.abs().amax(-1).eq(127).all()
    torch.testing.assert_close(scales[..., None] * 127, most)


def test_zeros_stay_zeros_and_what_is_not_finite_shows() -> None:
    heads = torch.ones(4, 1, 3)
    heads[0] = 0.0
    heads[1, 0, 1] = torch.nan
    heads[2, 0, 1] = -torch.inf
    found = rounded(heads)
    assert found[0].eq(0).all()
    assert found[1].isnan().all()
    assert found[2].isnan().all()
    torch.testing.assert_close(found[3], heads[3])


def attended(q: Tensor, k: Tensor, v: Tensor, *, int8_cache: bool) -> Tensor:
    """[H, T, C], in three steps over blocks in no order."""
    cache = PagedCache(SHAPE, 6, 4, int8_cache=int8_cache)
    parts = []
    for start, end in ((0, 9), (9, 10), (10, 17)):
        (layer,) = cache.step([Run(start, end - start, [3, 0, 5, 1, 2])])
        parts.append(layer.attend(*(whole[None, :, start:end] for whole in (q, k, v)))[0])
    return torch.cat(parts, 1)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**20))
def test_attention_is_that_of_the_codes_and_within_the_bound_of_the_plain_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(heads, 17, WIDTH, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    found = attended(q, k, v, int8_cache=True)
    of_codes = softmax_attention(
        q[None], rounded(k)[None], rounded(v)[None], attention_mask(17, 17)
    )[0]
    torch.testing.assert_close(found, of_codes, rtol=1e-5, atol=1e-5)
    plain = attended(q, k, v, int8_cache=False)
    key, value = k.abs().max(), v.abs().max()
    score = q.abs().sum(-1, keepdim=True) * key / (254 * math.sqrt(WIDTH))
    bound = (torch.exp(2 * score) - 1) * value + value / 254
    assert ((found - plain).abs() <= bound).all()
    assert not torch.equal(found, plain)


def test_slots_are_written_one_by_one() -> None:
    codes, scales = torch.full((6, 2, 3), 5, dtype=torch.int8), torch.full((6, 2), 2.0)
    heads = Int8Heads(codes, scales)
    new = torch.tensor([[[1.0, -2.0, 0.5], [0.0, 0.0, 4.0]]])
    heads.write(torch.tensor([4]), new)
    other = torch.full((1, 2, 3), 10.0)
    torch.testing.assert_close(
        heads.read(slice(3, 6), torch.float64), torch.cat([other, rounded(new), other]).double()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_a_byte_an_entry_and_a_scale_a_head(dtype: torch.dtype) -> None:
    cache = PagedCache(SHAPE, 3, 4, dtype=dtype, int8_cache=True)
    tensors = (*cache.keys, *cache.values, *(scales for pair in cache.scales for scales in pair))
    assert sum(tensor.nbytes for tensor in tensors) == 12 * 2 * KV_HEADS * (WIDTH + 4)
