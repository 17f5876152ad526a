"""Masks against loops over queries and keys, and the cases that need none."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from puna.nn import alibi_slopes, attention_mask, document_numbers

SIZES = pytest.mark.parametrize(("steps", "seen"), [(1, 1), (5, 5), (1, 7), (3, 7)])


def by_hand(
    steps: int, seen: int, window: int | None = None, documents: list[int] | None = None
) -> Tensor:
    """One pair of positions at a time; the last query is the last position."""
    visible = torch.zeros(steps, seen, dtype=torch.bool)
    for row, key in itertools.product(range(steps), range(seen)):
        query = seen - steps + row
        near = window is None or query - key < window
        together = documents is None or documents[query] == documents[key]
        visible[row, key] = key <= query and near and together
    return visible


@pytest.mark.parametrize(
    ("steps", "seen", "window"),
    [(1, 1, None), (5, 5, None), (3, 7, None), (5, 5, 5), (3, 7, 7), (1, 4, 9)],
)
def test_none_where_the_causal_rule_says_it_all(steps: int, seen: int, window: int | None) -> None:
    assert attention_mask(steps, seen, window=window) is None


@SIZES
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_shows_the_query_and_those_just_before_it(
    steps: int, seen: int, window: int
) -> None:
    mask = attention_mask(steps, seen, window=window)
    if window >= seen:
        assert mask is None
        return
    assert mask is not None
    assert mask.shape == (1, 1, steps, seen)
    assert torch.equal(mask[0, 0], by_hand(steps, seen, window))
    assert mask.sum(-1).max() == min(window, seen)


def test_documents_see_only_themselves_row_by_row() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    mask = attention_mask(6, 6, documents=documents)
    assert mask is not None
    assert mask.dtype == torch.bool
    assert mask.shape == (2, 1, 6, 6)
    for row in range(2):
        assert torch.equal(mask[row, 0], by_hand(6, 6, documents=documents[row].tolist()))


def test_documents_and_a_window_together() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    mask = attention_mask(7, 7, documents=documents, window=2)
    assert mask is not None
    assert torch.equal(mask[0, 0], by_hand(7, 7, 2, documents[0].tolist()))


@SIZES
@pytest.mark.parametrize("window", [None, 3])
def test_slopes_give_minus_slope_times_distance(steps: int, seen: int, window: int | None) -> None:
    slopes = alibi_slopes(4)
    mask = attention_mask(steps, seen, window=window, slopes=slopes)
    assert mask is not None
    assert mask.dtype == torch.float32
    assert mask.shape == (1, 4, steps, seen)
    visible = by_hand(steps, seen, window)
    for head, row, key in itertools.product(range(4), range(steps), range(seen)):
        distance = seen - steps + row - key
        assert mask[0, head, row, key] == (
            -slopes[head] * distance if visible[row, key] else -torch.inf
        )


def test_slopes_with_documents_have_a_row_for_each_sequence_and_head() -> None:
    documents = torch.tensor([[0, 0, 1], [0, 1, 1]])
    mask = attention_mask(3, 3, documents=documents, slopes=alibi_slopes(2))
    assert mask is not None
    assert mask.shape == (2, 2, 3, 3)
    assert torch.isneginf(mask[0, :, 2, :2]).all()
    assert torch.isfinite(mask[1, :, 2, 1:]).all()


def test_the_last_row_of_the_bias_equals_transformers() -> None:
    """MPT's bias is given for the last query, with the slopes of a power of two in order."""
    theirs = build_mpt_alibi_tensor(8, 20)
    ours = attention_mask(1, 20, slopes=alibi_slopes(8))
    assert ours is not None
    torch.testing.assert_close(ours[0], theirs, rtol=1e-6, atol=0)


@given(
    steps=st.integers(1, 9), past=st.integers(0, 9), window=st.integers(1, 20), biased=st.booleans()
)
def test_the_mask_of_the_last_queries_is_the_end_of_the_whole(
    steps: int, past: int, window: int, biased: bool
) -> None:
    """And every query sees itself, so that no softmax is over nothing."""
    seen, slopes = steps + past, alibi_slopes(2) if biased else None
    whole = attention_mask(seen, seen, window=window, slopes=slopes)
    part = attention_mask(steps, seen, window=window, slopes=slopes)
    if whole is None or part is None:
        assert whole is part
        return
    assert torch.equal(part, whole[:, :, past:])
    own = part[..., torch.arange(steps), torch.arange(past, seen)]
    assert (own == (0.0 if biased else True)).all()


def test_the_bias_depends_on_the_distance_alone() -> None:
    bias = attention_mask(9, 9, slopes=alibi_slopes(3))
    assert bias is not None
    assert torch.equal(bias[..., 1:, 1:], bias[..., :-1, :-1])


def test_far_positions_are_told_apart() -> None:
    """In bfloat16 1,001 would be 1,000: no position before the last has the bias of its
    neighbour.
    """
    bias = attention_mask(1, 4000, slopes=alibi_slopes(8))
    assert bias is not None
    torch.testing.assert_close(
        bias.diff(dim=-1), alibi_slopes(8).view(1, 8, 1, 1).expand(1, 8, 1, 3999), rtol=0, atol=0
    )


def test_a_document_starts_at_the_separator() -> None:
    """Windows are begin token, text, begin token, text; the first window here is cut from the
    middle of a document, the second is not.
    """
    ids = torch.tensor([[7, 8, 1, 9, 9, 1, 1], [1, 5, 5, 5, 1, 5, 5], [5, 5, 5, 5, 5, 5, 5]])
    expected = [[0, 0, 1, 1, 1, 2, 3], [0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]]
    assert document_numbers(ids, 1).tolist() == expected


def test_built_where_it_is_wanted() -> None:
    mask = attention_mask(4, 4, window=2, slopes=alibi_slopes(2), device="meta")
    assert mask is not None
    assert mask.is_meta


def test_bad_values_are_rejected() -> None:
    with pytest.raises(ValueError, match="a window of 0 positions"):
        attention_mask(4, 4, window=0)
    with pytest.raises(ValueError, match="5 queries are no last part of 4 positions"):
        attention_mask(5, 4)
    with pytest.raises(
        ValueError, match="documents cannot be kept apart for 1 queries on 4 positions"
    ):
        attention_mask(1, 4, documents=torch.zeros(1, 4, dtype=torch.long))
