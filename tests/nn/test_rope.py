"""Rotary positions: the algebra of rotations, their four forms, weight layouts, transformers'
tables, and precision.
"""

import cmath
import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from puna.nn import (
    Attention,
    RotaryEmbedding,
    half_split_to_interleaved,
    interleaved_to_half_split,
    rope_frequencies,
    rotate,
    rotate_complex,
    rotate_interleaved,
    rotation_matrix,
    softmax_attention,
)

FORMS = pytest.mark.parametrize("form", [rotate, rotate_interleaved, rotate_complex])


def tables(positions: Tensor, head_width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin in float64, without the module's float32."""
    frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    phases = torch.outer(positions.double(), frequencies)
    return phases.cos(), phases.sin()


def test_frequencies_are_powers_of_the_base() -> None:
    expected = [10000.0 ** (-2 * i / 8) for i in range(4)]  # 1, 0.1, 0.01, 0.001
    torch.testing.assert_close(
        rope_frequencies(8, 10000.0), torch.tensor(expected), rtol=1e-6, atol=0
    )


@FORMS
def test_position_zero_is_the_identity(form: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 3, 1, 16)
    assert torch.equal(form(x, *RotaryEmbedding(16, 4)(torch.tensor([0]))), x)


def test_matrix_of_angle_zero_is_the_identity() -> None:
    assert torch.equal(rotation_matrix(torch.zeros(3, 4)), torch.eye(8).expand(3, 8, 8))


@given(position=st.integers(0, 4095), seed=st.integers(0, 2**31))
def test_norms_are_kept(position: int, seed: int) -> None:
    """Of each pair, not only of the whole head."""
    x = torch.randn(1, 1, 1, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = rotate(x, *tables(torch.tensor([position]), 32))
    pairs = [torch.stack(tensor.chunk(2, dim=-1)).norm(dim=0) for tensor in (x, y)]
    torch.testing.assert_close(*pairs, rtol=1e-12, atol=1e-12)


@FORMS
@given(
    query=st.integers(0, 2000),
    key=st.integers(0, 2000),
    shift=st.integers(0, 2000),
    seed=st.integers(0, 2**31),
)
def test_scores_depend_on_the_distance_alone(
    form: Callable[..., Tensor], query: int, key: int, shift: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, 1, 1, 32, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(m: int, n: int) -> Tensor:
        return (
            form(q, *tables(torch.tensor([m]), 32)) * form(k, *tables(torch.tensor([n]), 32))
        ).sum()

    assert abs(score(query, key) - score(query + shift, key + shift)) < 1e-12 * q.norm() * k.norm()


@given(m=st.integers(0, 2000), n=st.integers(0, 2000))
def test_turning_back_by_m_and_on_by_n_is_turning_by_the_difference(m: int, n: int) -> None:
    """R_m^T R_n = R_(n-m), also for n < m."""
    frequencies = 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    back_and_on = rotation_matrix(m * frequencies).T @ rotation_matrix(n * frequencies)
    torch.testing.assert_close(
        back_and_on, rotation_matrix((n - m) * frequencies), rtol=0, atol=1e-12
    )


def test_two_turns_are_one_turn_by_the_sum() -> None:
    """R_m R_n = R_(m+n), with the module's own float32 tables."""
    rotary, x = RotaryEmbedding(16, 64), torch.randn(1, 2, 1, 16)
    twice = rotate(rotate(x, *rotary(torch.tensor([20]))), *rotary(torch.tensor([30])))
    torch.testing.assert_close(twice, rotate(x, *rotary(torch.tensor([50]))), rtol=0, atol=1e-5)


def split(x: Tensor) -> Tensor:
    """The entries of each head from interleaved to half-split."""
    return torch.cat((x[..., ::2], x[..., 1::2]), dim=-1)


def test_all_forms_are_one_rotation() -> None:
    """Element-wise interleaved, complex, block-diagonal matrix; and half-split, once its entries
    are put in the others' order.
    """
    x, positions = torch.randn(2, 3, 10, 16, dtype=torch.float64), torch.arange(10)
    cos, sin = tables(positions, 16)
    expected = rotate_interleaved(x, cos, sin)
    angles = torch.outer(
        positions.double(), 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    )
    by_matrix = (rotation_matrix(angles) @ x.unsqueeze(-1)).squeeze(-1)
    for other, wanted in (
        (rotate_complex(x, cos, sin), expected),
        (by_matrix, expected),
        (rotate(split(x), cos, sin), split(expected)),
    ):
        assert other.dtype == torch.float64
        torch.testing.assert_close(other, wanted, rtol=0, atol=1e-12)


def test_is_a_product_of_complex_numbers() -> None:
    """Python's own: (x_0 + j x_1) e^(j m) and (x_2 + j x_3) e^(j m / 100), for width 4 at position
    7.
    """
    x = torch.randn(1, 1, 1, 4, dtype=torch.float64)
    numbers = x.flatten().tolist()
    turned = [
        complex(*numbers[2 * i : 2 * i + 2]) * cmath.exp(1j * 7 * 10000 ** (-2 * i / 4))
        for i in range(2)
    ]
    expected = torch.tensor(
        [part for number in turned for part in (number.real, number.imag)], dtype=torch.float64
    )
    for form in (rotate_interleaved, rotate_complex):
        torch.testing.assert_close(
            form(x, *tables(torch.tensor([7]), 4)).flatten(), expected, rtol=1e-12, atol=1e-12
        )


def test_converted_weights_give_equal_scores_and_outputs() -> None:
    """Meta's layout with the interleaved rotation against ours with the half-split one; 4 query
    heads, 2 key heads, V untouched.
    """
    layer, x = Attention(16, 4, 2, 8).double(), torch.randn(2, 6, 16, dtype=torch.float64)
    cos, sin = tables(torch.arange(6), 8)

    def heads(weight: Tensor) -> Tensor:
        return (x @ weight.T).view(2, 6, -1, 8).transpose(1, 2)

    wq, wk, wv = (layer.get_parameter(f"{name}_proj.weight").detach().clone() for name in "qkv")
    q, k = (rotate_interleaved(heads(weight), cos, sin) for weight in (wq, wk))
    ours = [interleaved_to_half_split(weight, n) for weight, n in ((wq, 4), (wk, 2))]
    our_q, our_k = (rotate(heads(weight), cos, sin) for weight in ours)
    scores, our_scores = (
        a @ b.repeat_interleave(2, 1).transpose(-1, -2) for a, b in ((q, k), (our_q, our_k))
    )
    torch.testing.assert_close(our_scores, scores, rtol=0, atol=1e-12)
    meta_out = layer.o_proj(softmax_attention(q, k, heads(wv)).transpose(1, 2).flatten(2))
    with torch.no_grad():
        layer.q_proj.weight.copy_(ours[0])
        layer.k_proj.weight.copy_(ours[1])
    torch.testing.assert_close(layer(x, (cos, sin)), meta_out, rtol=0, atol=1e-12)


def test_conversion_reorders_rows_within_each_head() -> None:
    rows = torch.arange(8.0)  # two heads of width 4; also how a bias goes
    assert interleaved_to_half_split(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleaved_to_half_split(rows, 1).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_conversion_equals_the_published_conversion() -> None:
    """The reshape in transformers' conversion script for Meta's weights."""
    weight = torch.randn(24, 5)
    assert torch.equal(
        interleaved_to_half_split(weight, 3), weight.view(3, 4, 2, 5).transpose(1, 2).reshape(24, 5)
    )


@given(heads=st.integers(1, 5), half=st.integers(1, 8), columns=st.integers(1, 3))
def test_conversion_there_and_back_changes_nothing(heads: int, half: int, columns: int) -> None:
    weight = torch.randn(heads * 2 * half, columns)
    assert torch.equal(
        half_split_to_interleaved(interleaved_to_half_split(weight, heads), heads), weight
    )
    assert torch.equal(
        interleaved_to_half_split(half_split_to_interleaved(weight, heads), heads), weight
    )


@pytest.mark.parametrize("convert", [interleaved_to_half_split, half_split_to_interleaved])
@pytest.mark.parametrize("heads", [0, 3, 8])
def test_conversion_rejects_rows_that_are_no_such_heads(
    convert: Callable[..., Tensor], heads: int
) -> None:
    with pytest.raises(ValueError, match=f"8 rows are no {heads} heads"):
        convert(torch.zeros(8, 2), heads)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_equals_transformers(base: float) -> None:
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    positions = torch.arange(0, 2048, 7)
    q, k = torch.randn(1, 2, len(positions), 64), torch.randn(1, 2, len(positions), 64)
    their_q, their_k = apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, positions[None]))
    rotary = RotaryEmbedding(64, 2048, base)(positions)
    torch.testing.assert_close(rotate(q, *rotary), their_q, rtol=0, atol=2e-6 * 2048)
    torch.testing.assert_close(rotate(k, *rotary), their_k, rtol=0, atol=2e-6 * 2048)


def test_positions_of_a_batch_have_their_own_rows() -> None:
    """[B, T] positions give [B, 1, T, C/2] tables, so each sequence of a batch may stand
    elsewhere.
    """
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


@pytest.mark.parametrize("position", [-1, 8])
def test_positions_outside_the_table_are_rejected_on_a_cpu(position: int) -> None:
    """Plain indexing would take -1 for the last row."""
    with pytest.raises(IndexError):
        RotaryEmbedding(8, 8)(torch.tensor([0, position]))


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


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_keeps_the_dtype_and_rounds_once(
    form: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    x = torch.randn(1, 2, 6, 8).to(dtype)
    rotary = RotaryEmbedding(8, 6)(torch.arange(6))
    assert form(x, *rotary).dtype == dtype
    assert torch.equal(form(x, *rotary), form(x.float(), *rotary).to(dtype))


@FORMS
def test_gradient_is_the_turn_back(form: Callable[..., Tensor]) -> None:
    """Rotations are orthogonal: the gradient of <g, R x> is R^T g, the turn by the opposite
    angle.
    """
    x, g = torch.randn(1, 2, 6, 8, requires_grad=True), torch.randn(1, 2, 6, 8)
    cos, sin = RotaryEmbedding(8, 6)(torch.arange(6))
    form(x, cos, sin).backward(g)
    torch.testing.assert_close(x.grad, form(g, cos, -sin))


@FORMS
def test_a_view_of_transposed_heads_is_rotated_like_a_copy(form: Callable[..., Tensor]) -> None:
    """Attention hands over [B, T, H, C] seen as [B, H, T, C]."""
    x, rotary = torch.randn(2, 6, 3, 8).transpose(1, 2), RotaryEmbedding(8, 6)(torch.arange(6))
    assert torch.equal(form(x, *rotary), form(x.contiguous(), *rotary))


def test_odd_head_width_is_rejected() -> None:
    with pytest.raises(ValueError, match="head width 7 is odd"):
        RotaryEmbedding(7, 16)


def test_prints_its_shape() -> None:
    assert repr(RotaryEmbedding(128, 32)) == "RotaryEmbedding(head_width=128, context_length=32)"


def test_a_fraction_turns_the_first_entries_as_a_head_of_their_own() -> None:
    x, positions = torch.randn(2, 3, 5, 16), torch.arange(5)
    turned = rotate(x, *RotaryEmbedding(16, 8, fraction=0.75)(positions))
    assert torch.equal(turned[..., :12], rotate(x[..., :12], *RotaryEmbedding(12, 8)(positions)))
    assert torch.equal(turned[..., 12:], x[..., 12:])
    with pytest.raises(ValueError, match=r"head width 16 times 0\.7 is odd"):
        RotaryEmbedding(16, 8, fraction=0.7)


def test_tables_on_the_meta_device_cost_nothing() -> None:
    with torch.device("meta"):
        rotary = RotaryEmbedding(8, 1 << 40)
    assert rotary.cos.is_meta
