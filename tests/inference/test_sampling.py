"""Samplers on distributions small enough to work by hand, beside transformers' own, and by counting draws."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.inference.request import GenerationOptions
from puna.inference.sampling import adjusted_logits, min_p, repetition_penalty, sample, top_k, top_p

FOUR = [0.1, 0.4, 0.2, 0.3]
NO_TOKENS = torch.zeros((1, 0), dtype=torch.long)


def logits(*rows: list[float]) -> torch.Tensor:
    """The logits of these probabilities, shifted, since a constant changes nothing."""
    return torch.tensor(rows).log() + 5.0


def probabilities(**options: float) -> list[float]:
    return adjusted_logits(logits(FOUR), NO_TOKENS, GenerationOptions(**options)).softmax(-1)[0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, FOUR),
        ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),  # squares over their sum
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, FOUR),
        ({"top_p": 0.35}, [0, 1, 0, 0]),  # the likeliest alone crosses p, and stays
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),  # 0.4 falls short, the token that crosses is kept
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.95}, FOUR),
        ({"min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),  # at least 0.24
        ({"min_p": 1.0}, [0, 1, 0, 0]),
        ({"min_p": 0.2}, FOUR),
        ({"temperature": 0.5, "top_p": 0.6}, [0, 16 / 25, 0, 9 / 25]),  # the squares: 0.53 falls short
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),  # of what top-k leaves, 7/9 crosses
    ],
)
def test_four_tokens_by_hand(options: dict[str, float], expected: list[float]) -> None:
    assert probabilities(**options) == pytest.approx(expected, abs=1e-6)


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    values = torch.tensor([[2.0, -2.0, 0.0, 1.0], [3.0, -3.0, 0.5, -1.0]])
    seen = torch.tensor([[0, 1, 1, 0], [3, 3, 3, 3]])
    expected = [[1.0, -4.0, 0.0, 1.0], [3.0, -3.0, 0.5, -2.0]]
    assert repetition_penalty(values, seen, 2.0).tolist() == expected
    assert values[0].tolist() == [2.0, -2.0, 0.0, 1.0], "the input is left alone"


def test_equal_tokens_are_kept_together_by_top_k() -> None:
    assert top_k(torch.tensor([[1.0, 3.0, 1.0, 1.0]]), 2)[0].isfinite().tolist() == [True] * 4


def test_top_p_keeps_the_fewest_among_equal_ones() -> None:
    assert top_p(torch.zeros(1, 4), 0.5)[0].isfinite().tolist() == [True, True, False, False]


ROWS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12)


@given(ROWS, st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 15))
def test_filters_keep_the_likeliest_and_change_no_kept_logit(row: list[float], p: float, fraction: float, k: int) -> None:
    values = torch.tensor([row])
    for filtered in (top_p(values, p), min_p(values, fraction), top_k(values, k)):
        kept = filtered.isfinite()
        assert kept[0, values.argmax()]
        assert filtered[kept].equal(values[kept])
        assert values[kept].min() >= values[~kept].max() if kept.logical_not().any() else True
    kept = top_p(values, p).isfinite()
    chances = values.double().softmax(-1)
    assert chances[kept].sum() >= p - 1e-5
    assert chances[kept].sum() - chances[kept].min() < p + 1e-5, "one token fewer would not reach p"


@pytest.mark.parametrize("seed", range(5))
def test_transformers_agrees(seed: int) -> None:
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn((4, 50), generator=generator)
    seen = torch.randint(0, 50, (4, 9), generator=generator)
    theirs: Callable[..., torch.Tensor]
    pairs = [
        (RepetitionPenaltyLogitsProcessor(1.7), repetition_penalty(values, seen, 1.7)),
        (TopKLogitsWarper(7), top_k(values, 7)),
        (TopPLogitsWarper(0.8), top_p(values, 0.8)),
        (MinPLogitsWarper(0.1), min_p(values, 0.1)),
    ]
    for theirs, ours in pairs:
        torch.testing.assert_close(ours, theirs(seen, values.clone()), msg=type(theirs).__name__)
    chain = values
    for theirs in (
        RepetitionPenaltyLogitsProcessor(1.3),
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.05),
    ):
        chain = theirs(seen, chain)
    options = GenerationOptions(repetition_penalty=1.3, temperature=0.7, top_k=20, top_p=0.9, min_p=0.05)
    torch.testing.assert_close(adjusted_logits(values, seen, options), chain)


def test_draws_follow_the_probabilities() -> None:
    """Chi-square of 4,000 draws with three degrees of freedom: beyond 21.1 once in ten thousand seeds, and the seed is fixed."""
    draws = 4000
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    chosen = sample(logits(FOUR).expand(draws, 4), NO_TOKENS.expand(draws, 0), GenerationOptions(), generators)
    counts = torch.bincount(chosen, minlength=4).tolist()
    chi_square = sum((count - draws * p) ** 2 / (draws * p) for count, p in zip(counts, FOUR, strict=True))
    assert chi_square < 21.1
    ruled_out = sample(logits(FOUR).expand(draws, 4), NO_TOKENS.expand(draws, 0), GenerationOptions(top_p=0.5), generators)
    assert set(ruled_out.tolist()) == {1, 3}


def test_a_row_is_drawn_without_regard_to_its_neighbours() -> None:
    options = GenerationOptions(temperature=0.9, top_p=0.9, repetition_penalty=1.2)
    values = torch.randn((5, 30), generator=torch.Generator().manual_seed(0))
    seen = torch.randint(0, 30, (5, 4), generator=torch.Generator().manual_seed(1))
    together = sample(values, seen, options, [torch.Generator().manual_seed(row) for row in range(5)])
    for row in range(5):
        alone = sample(values[row : row + 1], seen[row : row + 1], options, [torch.Generator().manual_seed(row)])
        assert alone.item() == together[row].item()


def test_temperature_zero_takes_the_likeliest_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    values = logits(FOUR, [0.3, 0.2, 0.4, 0.1])
    assert sample(values, NO_TOKENS.expand(2, 0), GenerationOptions(temperature=0.0, top_k=3), [generator] * 2).tolist() == [1, 2]
    assert generator.get_state().equal(before)
    penalised = sample(values[:1], torch.tensor([[1]]), GenerationOptions(temperature=0.0, repetition_penalty=9.0), [generator])
    assert penalised.tolist() == [3], "the penalty acts even so"


def test_half_precision_logits_are_adjusted_in_float32() -> None:
    out = adjusted_logits(logits(FOUR).bfloat16(), NO_TOKENS, GenerationOptions(temperature=0.7))
    assert out.dtype == torch.float32
    assert math.isclose(out.softmax(-1).sum().item(), 1.0, rel_tol=1e-6)
