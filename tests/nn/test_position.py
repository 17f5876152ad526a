"""Learned and sinusoidal positions and ALiBi's slopes: formulas, published values, transformers'
tables.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from puna.nn import LearnedPositions, SinusoidalPositions, alibi_slopes

BOTH = pytest.mark.parametrize("kind", [LearnedPositions, SinusoidalPositions])


@BOTH
def test_each_position_has_its_row_in_any_order_and_batch(kind: type[nn.Module]) -> None:
    table = kind(12, 6)
    rows = table(torch.arange(12))
    positions = torch.tensor([[0, 1, 2], [11, 5, 5]])
    assert table(positions).shape == (2, 3, 6)
    assert torch.equal(table(positions), rows[positions])


@BOTH
@pytest.mark.parametrize("position", [-1, 12])
def test_positions_outside_the_context_are_rejected_on_a_cpu(
    kind: type[nn.Module], position: int
) -> None:
    with pytest.raises(IndexError):
        kind(12, 6)(torch.tensor([position]))


def test_learned_positions_are_one_trained_matrix() -> None:
    table = LearnedPositions(7, 4)
    assert {name: tuple(value.shape) for name, value in table.state_dict().items()} == {
        "weight": (7, 4)
    }
    table(torch.tensor([[1, 3], [3, 3]])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[:, 0].tolist() == [0, 1, 0, 3, 0, 0, 0]


def test_learned_positions_start_at_the_size_of_embeddings() -> None:
    weight = LearnedPositions(512, 64).weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(weight.mean().item()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_learned_positions_have_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    assert LearnedPositions(4, 4).to(dtype)(torch.arange(4)).dtype == dtype


def test_sines_stand_on_even_and_cosines_on_odd_entries() -> None:
    """The paper's formula in Python's doubles."""
    table = SinusoidalPositions(50, 10)(torch.arange(50))
    for position in range(50):
        for entry in range(10):
            angle = position / 10000 ** (2 * (entry // 2) / 10)
            expected = math.cos(angle) if entry % 2 else math.sin(angle)
            assert table[position, entry].item() == pytest.approx(expected, abs=1e-5)


def test_sinusoidal_position_zero_is_zeros_and_ones() -> None:
    assert SinusoidalPositions(4, 6)(torch.tensor([0])).tolist() == [[0, 1, 0, 1, 0, 1]]


def test_sinusoidal_positions_equal_transformers() -> None:
    """Whose table has the sines in the first half and the cosines in the second."""
    theirs = MarianSinusoidalPositionalEmbedding(100, 32).create_weight()
    ours = SinusoidalPositions(100, 32)(torch.arange(100))
    torch.testing.assert_close(
        torch.cat((ours[:, ::2], ours[:, 1::2]), dim=1), theirs, rtol=0, atol=1e-5
    )


@given(position=st.integers(0, 60), shift=st.integers(0, 60))
def test_a_shift_of_the_position_is_one_turn_of_the_vector(position: int, shift: int) -> None:
    """p_(m+n) is linear in p_m, the same map for every m: what the paper hoped a model would
    use.
    """
    table = SinusoidalPositions(128, 16)
    here, there, turn = (
        table(torch.tensor([each]))[0].view(8, 2) for each in (position, position + shift, shift)
    )
    sin, cos = turn.unbind(-1)
    turned = torch.stack(
        (here[:, 0] * cos + here[:, 1] * sin, here[:, 1] * cos - here[:, 0] * sin), dim=-1
    )
    torch.testing.assert_close(turned, there, rtol=0, atol=2e-5)


def test_sinusoidal_positions_stay_float32_and_out_of_the_state_dict() -> None:
    table = SinusoidalPositions(512, 16)
    before = table(torch.arange(512))
    table.to(torch.bfloat16)
    assert torch.equal(table(torch.arange(512)), before)
    assert table.state_dict() == {}
    assert list(table.parameters()) == []


@BOTH
def test_built_on_the_meta_device(kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        table = kind(32, 8)
    assert table(torch.arange(32, device="meta")).is_meta
    table.to_empty(device="cpu")
    assert table(torch.arange(32)).shape == (32, 8)
    if kind is SinusoidalPositions:
        assert torch.equal(table(torch.arange(32)), kind(32, 8)(torch.arange(32)))


def test_odd_width_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"width 7 is odd.*use an even one"):
        SinusoidalPositions(16, 7)


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, [0.5 * i for i in range(1, 17)]),
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_slopes_are_the_published_powers_of_two(heads: int, exponents: list[float]) -> None:
    """The paper's for 8 and 16 heads, its code's for the others."""
    torch.testing.assert_close(
        alibi_slopes(heads),
        torch.tensor([2.0**-exponent for exponent in exponents]),
        rtol=1e-7,
        atol=0,
    )


@given(heads=st.integers(1, 200))
def test_slopes_equal_transformers_and_differ_between_heads(heads: int) -> None:
    """BLOOM's bias of key position 1 is the slope."""
    slopes = alibi_slopes(heads)
    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(slopes, theirs, rtol=1e-5, atol=0)
    assert len(set(slopes.tolist())) == heads
    assert slopes.min() == 2**-8
    assert slopes.max() < 1


def test_slopes_are_numbers_even_where_modules_are_built_without_memory() -> None:
    with torch.device("meta"):
        assert alibi_slopes(2).tolist() == [2**-4, 2**-8]


def test_no_heads_are_rejected() -> None:
    with pytest.raises(ValueError, match="0 heads have no slopes"):
        alibi_slopes(0)
