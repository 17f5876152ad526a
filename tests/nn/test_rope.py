"""Rotary positions: the algebra of rotations, the published complex form, transformers' tables, and precision."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from puna.nn import RotaryEmbedding, rope_frequencies, rotate


def tables(positions: Tensor, head_width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin in float64, without the module's float32."""
    frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    phases = torch.outer(positions.double(), frequencies)
    return phases.cos(), phases.sin()


def test_frequencies_are_powers_of_the_base() -> None:
    expected = [10000.0 ** (-2 * i / 8) for i in range(4)]  # 1, 0.1, 0.01, 0.001
    torch.testing.assert_close(rope_frequencies(8, 10000.0), torch.tensor(expected), rtol=1e-6, atol=0)


def test_position_zero_is_the_identity() -> None:
    x = torch.randn(2, 3, 1, 16)
    assert torch.equal(rotate(x, *RotaryEmbedding(16, 4)(torch.tensor([0]))), x)


@given(position=st.integers(0, 4095), seed=st.integers(0, 2**31))
def test_norms_are_kept(position: int, seed: int) -> None:
    """Of each pair, not only of the whole head."""
    x = torch.randn(1, 1, 1, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = rotate(x, *tables(torch.tensor([position]), 32))
    pairs = [torch.stack(tensor.chunk(2, dim=-1)).norm(dim=0) for tensor in (x, y)]
    torch.testing.assert_close(*pairs, rtol=1e-12, atol=1e-12)


@given(query=st.integers(0, 2000), key=st.integers(0, 2000), shift=st.integers(0, 2000), seed=st.integers(0, 2**31))
def test_scores_depend_on_the_distance_alone(query: int, key: int, shift: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, 1, 1, 32, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(m: int, n: int) -> Tensor:
        return (rotate(q, *tables(torch.tensor([m]), 32)) * rotate(k, *tables(torch.tensor([n]), 32))).sum()

    assert abs(score(query, key) - score(query + shift, key + shift)) < 1e-11 * q.norm() * k.norm()


def test_two_turns_are_one_turn_by_the_sum() -> None:
    """R_m R_n = R_(m+n), with the module's own float32 tables."""
    rotary, x = RotaryEmbedding(16, 64), torch.randn(1, 2, 1, 16)
    twice = rotate(rotate(x, *rotary(torch.tensor([20]))), *rotary(torch.tensor([30])))
    torch.testing.assert_close(twice, rotate(x, *rotary(torch.tensor([50]))), rtol=0, atol=1e-5)


def test_equals_the_complex_form_on_the_interleaved_layout() -> None:
    """Meta's code turns x_2i + i x_(2i+1) by e^(i m theta); interleaving the halves carries one layout to the other."""
    x = torch.randn(2, 3, 10, 16, dtype=torch.float64)
    cos, sin = tables(torch.arange(10), 16)
    interleaved = torch.stack(x.chunk(2, dim=-1), dim=-1)
    turned = torch.view_as_real(torch.view_as_complex(interleaved) * torch.complex(cos, sin))
    expected = torch.cat((turned[..., 0], turned[..., 1]), dim=-1)
    torch.testing.assert_close(rotate(x, cos, sin), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_equals_transformers(base: float) -> None:
    config = LlamaConfig(hidden_size=128, num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": base})
    positions = torch.arange(0, 2048, 7)
    q, k = torch.randn(1, 2, len(positions), 64), torch.randn(1, 2, len(positions), 64)
    their_q, their_k = apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, positions[None]))
    rotary = RotaryEmbedding(64, 2048, base)(positions)
    torch.testing.assert_close(rotate(q, *rotary), their_q, rtol=0, atol=2e-6 * 2048)
    torch.testing.assert_close(rotate(k, *rotary), their_k, rtol=0, atol=2e-6 * 2048)


def test_positions_of_a_batch_have_their_own_rows() -> None:
    """[B, T] positions give [B, 1, T, C/2] tables, so each sequence of a batch may stand elsewhere."""
    rotary, x = RotaryEmbedding(8, 32), torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [9, 8, 20, 31]])
    both = rotate(x, *rotary(positions))
    for row in range(2):
        assert torch.equal(both[row : row + 1], rotate(x[row : row + 1], *rotary(positions[row])))


def test_tables_stay_float32_and_exact_when_the_model_becomes_bfloat16() -> None:
    model = nn.ModuleDict({"rotary": RotaryEmbedding(16, 512), "linear": nn.Linear(2, 2)})
    before = copy.deepcopy(model["rotary"].cos)
    model.to(torch.bfloat16)
    assert model["linear"].weight.dtype == torch.bfloat16
    assert model["rotary"].cos.dtype == model["rotary"].sin.dtype == torch.float32
    assert torch.equal(model["rotary"].cos, before)


def test_is_no_part_of_the_state_dict() -> None:
    assert RotaryEmbedding(16, 512).state_dict() == {}


def test_leaving_the_meta_device_fills_the_tables() -> None:
    with torch.device("meta"):
        rotary = RotaryEmbedding(16, 512)
    assert rotary.cos.is_meta
    rotary.to_empty(device="cpu")
    expected = RotaryEmbedding(16, 512)
    assert torch.equal(rotary.cos, expected.cos)
    assert torch.equal(rotary.sin, expected.sin)


def test_precision_at_position_100000() -> None:
    """A float32 phase near 1e5 is off by at most 2^-8 radian; a bfloat16 one by whole turns."""
    position = torch.tensor([100_000])
    cos, _ = RotaryEmbedding(64, 100_001, 500000.0).bfloat16()(position)
    exact, _ = tables(position, 64, 500000.0)
    assert (cos.squeeze() - exact.squeeze()).abs().max() < 2**-8
    in_bfloat16 = torch.outer(position.bfloat16(), rope_frequencies(64, 500000.0).bfloat16()).cos()
    assert (in_bfloat16 - exact).abs().max() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_keeps_the_dtype_and_rounds_once(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 6, 8).to(dtype)
    rotary = RotaryEmbedding(8, 6)(torch.arange(6))
    assert rotate(x, *rotary).dtype == dtype
    assert torch.equal(rotate(x, *rotary), rotate(x.float(), *rotary).to(dtype))


def test_gradient_is_the_turn_back() -> None:
    """Rotations are orthogonal: the gradient of <g, R x> is R^T g, the turn by the opposite angle."""
    x, g = torch.randn(1, 2, 6, 8, requires_grad=True), torch.randn(1, 2, 6, 8)
    cos, sin = RotaryEmbedding(8, 6)(torch.arange(6))
    rotate(x, cos, sin).backward(g)
    torch.testing.assert_close(x.grad, rotate(g, cos, -sin))


def test_odd_head_width_is_refused() -> None:
    with pytest.raises(ValueError, match="head width 7 is odd"):
        RotaryEmbedding(7, 16)


def test_prints_its_shape() -> None:
    assert repr(RotaryEmbedding(128, 32)) == "RotaryEmbedding(head_width=128, context_length=32)"
