"""Drafts by prompt lookup: the tokens after the latest occurrence of the last ones, and the rests
after failures.
"""

from hypothesis import given
from hypothesis import strategies as st

from puna.inference.speculation import MOST, PATIENCE, REST, PromptLookup


def test_what_followed_the_last_time_is_the_draft() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 5, 6, 9, 2, 3]) == [4, 5, 6, 9]
    assert PromptLookup().propose([2, 3, 7, 8, 2, 3, 4, 5, 2, 3], limit=2) == [
        4,
        5,
    ], "the latest time, not the first"


def test_a_longer_match_wins() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 50, 9, 3, 4, 60, 1, 2, 3, 4], limit=1) == [50]


def test_a_copy_may_run_into_itself() -> None:
    assert PromptLookup().propose([7, 8, 7, 8, 7, 8]) == [7, 8, 7, 8]
    assert PromptLookup().propose([5, 5, 5]) == [5, 5, 5, 5]


def test_nothing_to_go_by_is_no_draft() -> None:
    lookup = PromptLookup()
    assert lookup.propose([]) == []
    assert lookup.propose([1]) == []
    assert lookup.propose([1, 2, 3, 4]) == []
    assert PromptLookup().propose([1, 2, 1, 2], limit=0) == []


def test_drafts_grow_while_all_are_right_and_shrink_when_none_is() -> None:
    lookup, tokens = PromptLookup(), [1, 2, 3] * 20
    assert len(lookup.propose(tokens)) == 4
    for size in (8, 16, MOST):
        lookup.learn(4, 4, len(tokens))
        assert len(lookup.propose(tokens)) == size
    lookup.learn(MOST, 0, len(tokens))
    assert len(lookup.propose(tokens)) == MOST // 2
    lookup.learn(MOST // 2, 3, len(tokens))
    assert len(lookup.propose(tokens)) == 3


def test_after_three_failures_it_rests_and_then_longer() -> None:
    lookup, tokens = PromptLookup(), [1, 2] * 10
    for rest in (REST, 2 * REST, 4 * REST):
        while lookup.propose(tokens):
            lookup.learn(1, 0, len(tokens))
        start = len(tokens)
        while not lookup.propose(tokens):
            tokens += [tokens[-2]]
        assert len(tokens) - start == rest
    lookup.learn(1, 1, len(tokens))
    for _ in range(PATIENCE):
        assert lookup.propose(tokens)
        lookup.learn(1, 0, len(tokens))
    assert not lookup.propose(tokens)
    assert lookup.propose(tokens + [tokens[-2], tokens[-1]] * (REST // 2)), (
        "a success makes the next rest short again"
    )


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.integers(0, 9),
    st.lists(st.integers(1, 9), max_size=9),
)
def test_a_draft_is_the_same_however_the_tokens_arrived(
    tokens: list[int], limit: int, cuts: list[int]
) -> None:
    step_by_step = PromptLookup()
    for end in sorted(min(cut, len(tokens)) for cut in cuts):
        step_by_step.propose(tokens[:end], 0)
    draft = step_by_step.propose(tokens, limit)
    assert draft == PromptLookup().propose(tokens, limit)
    assert len(draft) <= limit
    assert set(draft) <= set(tokens)
