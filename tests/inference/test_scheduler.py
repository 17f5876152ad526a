"""The scheduler's policy, rule by rule by hand, then random schedules beside a model of what each
slot of the cache holds.
"""

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from puna.inference.block_pool import BlockPool
from puna.inference.scheduler import Scheduler, Sequence, Work

TWIN = 2**61 - 1  # hash(TWIN) == hash(0), so tuples of the two collide wherever they differ


def scheduler(
    num_blocks: int = 16, block_size: int = 4, max_running: int = 8, max_step_tokens: int = 64
) -> Scheduler:
    return Scheduler(
        BlockPool(num_blocks, block_size), max_running=max_running, max_step_tokens=max_step_tokens
    )


def sequence(
    number: int, length: int, output: int = 20, first: int | None = None, **options: object
) -> Sequence:
    """A prompt of `length` ids, which no other number's prompt shares unless `first` says where
    they begin.
    """
    first = 1000 * number if first is None else first
    return Sequence(number, list(range(first, first + length)), length, length + output, **options)


def step(scheduler: Scheduler, accept: int = 0) -> list[tuple[int, int, int, int]]:
    """One step, in which each sequence gets the id 7 after `accept` of its drafts: number, start,
    count, drafts of its works.
    """
    works = scheduler.plan()
    for work in works:
        finish(scheduler, work, accept)
    return brief(works)


def finish(scheduler: Scheduler, work: Work, accept: int = 0) -> None:
    scheduler.complete(
        work, [*work.sequence.draft[: min(accept, work.drafts)], 7] if work.samples else []
    )


def brief(works: list[Work]) -> list[tuple[int, int, int, int]]:
    return [(work.sequence.number, work.start, work.count, work.drafts) for work in works]


def test_a_prompt_is_computed_at_once_and_then_each_token() -> None:
    line = scheduler()
    one = sequence(0, 6)
    line.add(one)
    assert (line.waiting, line.running) == (1, 0)
    (work,) = line.plan()
    assert (work.sequence, work.start, work.count, work.drafts, work.samples) == (
        one,
        0,
        6,
        0,
        True,
    )
    assert (line.waiting, line.running) == (0, 1)
    line.complete(work, [50])
    assert (one.tokens[6:], one.computed) == ([50], 6)
    assert step(line) == [(0, 6, 1, 0)]
    assert one.tokens[6:] == [50, 7]
    line.remove(one)
    assert (line.waiting, line.running, line.plan()) == (0, 0, [])


def test_decoding_comes_first_then_prompts_in_chunks_then_newcomers() -> None:
    line = scheduler(num_blocks=40, max_step_tokens=10)
    line.add(sequence(0, 3))
    line.add(sequence(1, 25))
    line.add(sequence(2, 3))
    assert step(line) == [(0, 0, 3, 0), (1, 0, 7, 0)]
    assert step(line) == [(0, 3, 1, 0), (1, 7, 9, 0)]
    assert step(line) == [(0, 4, 1, 0), (1, 16, 9, 0)]
    assert step(line) == [(0, 5, 1, 0), (1, 25, 1, 0), (2, 0, 3, 0)]
    assert step(line) == [(0, 6, 1, 0), (1, 26, 1, 0), (2, 3, 1, 0)]


def test_a_chunk_that_does_not_end_the_prompt_samples_nothing() -> None:
    line = scheduler(max_step_tokens=5)
    line.add(sequence(0, 10))
    for start, samples in [(0, False), (5, True)]:
        (work,) = line.plan()
        assert (work.start, work.count, work.samples) == (start, 5, samples)
        if not samples:
            with pytest.raises(AssertionError):
                line.complete(work, [7])
        finish(line, work)


def test_decoding_leaves_the_oldest_prompt_a_block_of_the_budget_and_drafts_leave_it_too() -> None:
    line = scheduler(num_blocks=40, max_step_tokens=8)
    olds = [sequence(number, 1) for number in range(6)]
    for old in olds:
        line.add(old)
    line.add(sequence(6, 20))
    assert step(line)[-1] == (6, 0, 2, 0)
    assert step(line) == [(0, 1, 1, 0), (1, 1, 1, 0), (2, 1, 1, 0), (3, 1, 1, 0), (6, 2, 4, 0)]
    for old in olds[2:]:
        line.remove(old)
    for old in olds[:2]:
        old.draft = [1, 2, 3, 4]
    assert step(line) == [(0, 2, 3, 2), (1, 2, 1, 0), (6, 6, 4, 0)]


def test_drafts_leave_newcomers_a_block_of_the_budget() -> None:
    line = scheduler(num_blocks=40, max_step_tokens=8)
    olds = [sequence(0, 4), sequence(1, 4)]
    for old in olds:
        line.add(old)
    step(line)
    line.add(sequence(2, 20))
    for old in olds:
        old.draft = [1, 2, 3]
    assert step(line) == [(0, 4, 3, 2), (1, 4, 1, 0), (2, 0, 4, 0)]


def test_a_budget_of_one_token_serves_all_in_turn() -> None:
    line = scheduler(max_step_tokens=1)
    line.add(sequence(0, 2))
    line.add(sequence(1, 2))
    assert [step(line) for _ in range(3)] == [[(0, 0, 1, 0)], [(0, 1, 1, 0)], [(0, 2, 1, 0)]]


def test_no_more_than_max_running_run() -> None:
    line = scheduler(max_running=2)
    first = sequence(0, 3)
    for newcomer in (first, sequence(1, 3), sequence(2, 3)):
        line.add(newcomer)
    assert [number for number, *_ in step(line)] == [0, 1]
    assert (line.running, line.waiting) == (2, 1)
    line.remove(first)
    assert step(line) == [(1, 3, 1, 0), (2, 0, 3, 0)]


def test_a_newcomer_waits_until_its_tokens_and_one_more_fit_and_nobody_overtakes_it() -> None:
    line = scheduler(num_blocks=6)
    first = sequence(0, 12, output=12)  # 4 blocks with one more token
    line.add(first)
    line.add(sequence(1, 8, output=8))  # 3 blocks with one more token, and 2 are left
    line.add(sequence(2, 2, output=2))
    assert step(line) == [(0, 0, 12, 0)]
    assert step(line) == [(0, 12, 1, 0)]
    line.remove(first)
    assert step(line) == [(1, 0, 8, 0), (2, 0, 2, 0)]


def test_a_newcomer_that_will_get_no_token_wants_no_block_for_one() -> None:
    line = scheduler(num_blocks=2)
    embedded = sequence(0, 8, output=0)
    line.add(embedded)
    (work,) = line.plan()
    assert (work.count, work.samples, len(embedded.blocks)) == (8, True, 2)
    line.complete(work, [])
    assert embedded.computed == 8
    line.remove(embedded)
    assert line.plan() == []


def test_a_prompt_under_way_never_wants_for_memory() -> None:
    """Its blocks are taken when it is admitted, so the later steps of a long prompt find them
    whoever came since.
    """
    line = scheduler(num_blocks=6, max_step_tokens=8)
    line.add(sequence(0, 15, output=1))
    line.add(sequence(1, 3, output=5))
    assert step(line) == [(0, 0, 8, 0)]
    assert step(line) == [(0, 8, 7, 0), (1, 0, 1, 0)]
    assert line.preemptions == 0


def test_the_youngest_is_preempted_and_comes_back_through_the_blocks_that_are_cached() -> None:
    line = scheduler(num_blocks=6)
    old, young = sequence(0, 7, output=16), sequence(1, 10, output=8)
    line.add(old)
    line.add(young)
    assert step(line) == [(0, 0, 7, 0), (1, 0, 10, 0)]  # 2 and 3 blocks
    for start in (0, 1):
        # the old takes the sixth at its ninth token
        assert step(line) == [(0, 7 + start, 1, 0), (1, 10 + start, 1, 0)]
    # the young wants a fourth block, and is the youngest itself
    assert step(line) == [(0, 9, 1, 0)]
    assert (line.preemptions, line.waiting, young.computed, young.blocks) == (1, 1, 0, [])
    assert young.tokens[10:] == [7, 7, 7], "what was said stays said"
    line.remove(old)
    assert step(line) == [(1, 12, 1, 0)], "its three full blocks are cached still"
    assert (young.computed, line.shared_tokens, young.cached) == (
        13,
        0,
        0,
    ), "nothing of it was cached when it first came"


def test_the_oldest_takes_memory_from_younger_ones_that_stand_first_in_the_queue_then() -> None:
    line = scheduler(num_blocks=4)
    sequences = [
        sequence(0, 4, output=12),
        sequence(1, 3, output=12),
        sequence(2, 3, output=12),
        sequence(3, 3, output=3),
    ]
    for each in sequences:
        line.add(each)
    assert [number for number, *_ in step(line)] == [0, 1, 2]  # 2, 1 and 1 blocks
    assert [number for number, *_ in step(line)] == [0, 1, 2]
    assert step(line) == [
        (0, 5, 1, 0),
        (1, 4, 1, 0),
    ], "the second wants a second block and gets the third's"
    assert (line.running, line.waiting, line.preemptions) == (2, 2, 1)
    assert [step(line), step(line)] == [[(0, 6, 1, 0), (1, 5, 1, 0)], [(0, 7, 1, 0), (1, 6, 1, 0)]]
    assert step(line) == [(0, 8, 1, 0)], (
        "the first wants a third one: the second is the youngest that runs"
    )
    assert (line.running, line.waiting, line.preemptions) == (1, 3, 2)
    line.remove(sequences[0])
    assert [number for number, *_ in step(line)] == [1], (
        "next in the queue is one that wants two blocks of the one left; the last does not pass it"
    )


def test_nobody_is_preempted_for_a_draft_and_an_older_ones_drafts_make_room_for_a_token() -> None:
    line = scheduler(num_blocks=5)
    old, young = sequence(0, 6, output=10), sequence(1, 7, output=9)
    line.add(old)
    line.add(young)
    step(line)
    old.draft = [1, 2, 3, 4, 5, 6]
    assert step(line) == [(0, 6, 6, 5), (1, 7, 1, 0)], "the fifth block holds the last four drafts"
    old.draft = [1, 2, 3, 4, 5, 6]
    assert step(line) == [
        (0, 7, 1, 0),
        (1, 8, 1, 0),
    ], "the young wants the fifth block for its ninth token"
    old.draft = [1, 2, 3, 4, 5, 6]
    assert [len(young.blocks), line._pool.available] == [3, 0]
    assert step(line) == [(0, 8, 4, 3)], (
        "the old wants a block for its own ninth token, and no more while the young waits for one"
    )
    assert line.preemptions == 1


def test_drafts_take_no_block_that_a_newcomer_waits_for() -> None:
    line = scheduler(num_blocks=4, max_running=2)
    old, other = sequence(0, 6, output=10), sequence(1, 3, output=1)
    line.add(old)
    line.add(other)
    step(line)
    old.draft = [1, 2, 3, 4]
    line.add(sequence(2, 6, output=4))
    assert step(line) == [(0, 6, 5, 4), (1, 3, 1, 0)], "it waits for another to end, not for memory"
    line.remove(other)
    old.draft = [1, 2, 3, 4]
    assert step(line) == [(0, 7, 1, 0), (2, 0, 6, 0)]


def test_memory_that_wrong_drafts_took_is_given_back() -> None:
    line = scheduler(num_blocks=4)
    old, young = sequence(0, 4, output=8), sequence(1, 6, output=8)
    line.add(old)
    line.add(young)
    step(line)
    pool = line._pool
    old.draft = young.draft = [1, 2, 3]
    assert pool.available == 0
    line.remove(young)
    assert step(line) == [(0, 4, 4, 3)]
    old.draft = [1, 2, 3]
    works = line.plan()
    assert (brief(works), pool.available) == ([(0, 5, 4, 3)], 1)
    finish(line, works[0])
    assert (len(old.tokens), len(old.blocks), pool.available) == (7, 2, 2)
    old.draft = [1, 2, 3, 4]
    assert step(line, accept=1) == [(0, 6, 5, 4)]
    assert (len(old.tokens), len(old.blocks), pool.available) == (
        9,
        3,
        1,
    ), "the ninth token has its block already"


def test_drafts_that_hold_are_taken_in_and_their_full_blocks_become_cached() -> None:
    line = scheduler()
    one = sequence(0, 6)
    line.add(one)
    step(line)
    one.draft = [50, 51, 52]
    assert step(line, accept=2) == [(0, 6, 4, 3)]
    assert (one.tokens[6:], one.computed, one.draft) == ([7, 50, 51, 7], 9, [])
    assert line._pool.match(one.tokens, None) == one.blocks[:2]
    one.draft = [60, 61, 62]
    assert step(line, accept=0) == [(0, 9, 4, 3)]
    assert (one.tokens[9:], one.computed) == ([7, 7], 10)
    one.draft = [70, 71, 72]
    assert step(line, accept=0) == [(0, 10, 4, 3)]
    assert len(one.tokens) == 12, "its last token stands where a rejected draft token was computed"
    assert (
        line._pool.match(one.tokens, None)
        == line._pool.match([*one.tokens[:11], 70], None)
        == one.blocks[:2]
    )


def test_each_block_is_inserted_once() -> None:
    """A step costs what is new, however long the text."""
    line = scheduler(num_blocks=30, max_step_tokens=10)
    inserted = []
    insert = line._pool.insert

    def record(
        blocks: list[int], ids: list[int], adapter: str | None, already: int, full: int
    ) -> None:
        inserted.extend(range(already, full))
        insert(blocks, ids, adapter, already, full)

    line._pool.insert = record  # type: ignore[method-assign]
    one = sequence(0, 27, output=30)
    line.add(one)
    while one.computed < 50:
        one.draft = [1, 2, 3, 4, 5]
        step(line, accept=one.computed % 5)
    assert inserted == list(range(one.computed // 4))


def test_a_text_may_end_within_its_drafts() -> None:
    line = scheduler()
    one = sequence(0, 6)
    line.add(one)
    step(line)
    one.draft = [50, 51, 52]
    (work,) = line.plan()
    line.complete(work, [50, 51])
    assert (one.tokens[6:], one.computed) == ([7, 50, 51], 8)


def test_drafts_stop_before_the_longest_length() -> None:
    line = scheduler()
    one = sequence(0, 6, output=4)
    line.add(one)
    step(line)
    one.draft = [1, 2, 3, 4, 5]
    assert step(line, accept=1) == [(0, 6, 3, 2)]
    assert len(one.tokens) == 9
    one.draft = [1, 2, 3]
    assert step(line) == [(0, 8, 1, 0)]
    assert len(one.tokens) == one.max_length


def test_drafts_for_a_prompt_under_way_are_left_out() -> None:
    line = scheduler(max_step_tokens=4)
    one = sequence(0, 6)
    one.draft = [1, 2]
    line.add(one)
    assert step(line) == [(0, 0, 4, 0)]
    one.draft = [1, 2]
    assert step(line) == [(0, 4, 2, 0)]


def test_a_newcomer_starts_behind_the_blocks_that_are_cached() -> None:
    line = scheduler()
    line.add(sequence(0, 10, first=0))
    step(line)
    line.add(second := sequence(1, 12, first=0))
    assert step(line) == [(0, 10, 1, 0), (1, 8, 4, 0)]
    assert (second.cached, line.shared_tokens) == (8, 8)


def test_a_work_may_share_what_an_earlier_one_of_the_same_step_fills() -> None:
    line = scheduler(num_blocks=20)
    for number in range(3):
        line.add(sequence(number, 10, first=0))
    assert step(line) == [(0, 0, 10, 0), (1, 8, 2, 0), (2, 8, 2, 0)]
    assert line._pool.in_use == 2 + 3


def test_only_the_part_of_a_prompt_that_this_step_fills_is_shared() -> None:
    line = scheduler(num_blocks=20, max_step_tokens=12)
    line.add(sequence(0, 2, output=1))
    line.add(sequence(1, 19, first=0))
    line.add(sequence(2, 19, first=0))
    assert step(line) == [(0, 0, 2, 0), (1, 0, 10, 0)]
    assert step(line) == [(0, 2, 1, 0), (1, 10, 9, 0), (2, 16, 2, 0)]


def test_the_last_token_is_computed_even_if_all_is_cached() -> None:
    line = scheduler()
    line.add(sequence(0, 8, first=0))
    step(line)
    line.add(sequence(1, 8, first=0))
    assert step(line) == [(0, 8, 1, 0), (1, 4, 4, 0)]


def test_only_sequences_of_one_adapter_that_want_to_share_do() -> None:
    line = scheduler(num_blocks=40)
    line.add(sequence(0, 9, first=0, insert_blocks=False))
    line.add(sequence(1, 9, first=0))
    line.add(sequence(2, 9, first=0, adapter="law"))
    line.add(sequence(3, 9, first=0, match_prefix=False))
    line.add(sequence(4, 9, first=0))
    line.add(sequence(5, 9, first=0, adapter="law"))
    assert [(number, start) for number, start, _, _ in step(line)] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 8),
        (5, 8),
    ]


def test_equal_hashes_do_not_make_texts_equal() -> None:
    line = scheduler()
    line.add(Sequence(0, [0, TWIN, 0, 0, 5], 5, 9))
    line.add(Sequence(1, [TWIN, 0, 0, 0, 5], 5, 9))
    line.add(Sequence(2, [0, TWIN, 0, 0, 6], 5, 9))
    assert step(line) == [(0, 0, 5, 0), (1, 0, 5, 0), (2, 4, 1, 0)]


def test_a_rejected_newcomer_is_not_matched_again_before_its_memory_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = scheduler(num_blocks=6)
    first, second = sequence(0, 12, output=12, first=0), sequence(1, 6, output=6)
    line.add(first)  # 4 blocks
    line.add(second)  # 2 blocks
    step(line)
    looked_up = []
    match = line._pool.match
    monkeypatch.setattr(
        line._pool, "match", lambda ids, adapter: looked_up.append(ids) or match(ids, adapter)
    )
    line.add(sequence(2, 18, output=6, first=0))  # 5 blocks, the first's full 3 among them
    for _ in range(2):
        assert [number for number, *_ in step(line)] == [0, 1]
    assert len(looked_up) == 1
    line.remove(second)
    assert step(line) == [(0, 14, 1, 0), (2, 12, 6, 0)]
    assert len(looked_up) == 2


def test_memory_that_holds_a_rejected_newcomers_prefix_is_not_counted_as_free_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = scheduler(num_blocks=6)
    first, second = sequence(0, 12, output=3, first=0), sequence(1, 10, output=6)
    line.add(first)
    step(line)
    line.remove(first)  # 3 cached blocks
    line.add(second)  # takes the other 3
    step(line)
    looked_up = []
    match = line._pool.match
    monkeypatch.setattr(
        line._pool, "match", lambda ids, adapter: looked_up.append(ids) or match(ids, adapter)
    )
    line.add(sequence(2, 14, output=6, first=0))  # 4 blocks: the 3 and one more
    assert [step(line), step(line)] == [[(1, 10, 1, 0)], [(1, 11, 1, 0)]]
    assert len(looked_up) == 1
    line.remove(second)
    assert step(line) == [(2, 12, 2, 0)]


def test_whoever_comes_after_a_rejected_newcomer_that_left_is_not_held_to_its_wants() -> None:
    line = scheduler(num_blocks=6)
    line.add(sequence(0, 12, output=12))
    line.add(large := sequence(1, 8, output=8))
    line.add(sequence(2, 2, output=2))
    assert step(line) == [(0, 0, 12, 0)]
    line.remove(large)
    assert step(line) == [(0, 12, 1, 0), (2, 0, 2, 0)]


def test_the_blocks_of_a_sequence_stand_side_by_side_where_they_can() -> None:
    line = scheduler(num_blocks=32)
    gap = sequence(0, 3, output=1)
    line.add(gap)
    line.add(one := sequence(1, 11, output=30))
    step(line)
    line.remove(gap)  # leaves block 0
    one.draft = [1, 2, 3]
    step(line, accept=3)
    while len(one.tokens) < 24:
        step(line)
    assert one.blocks == [1, 2, 3, 4, 5, 6]
    line.remove(one)
    two = Sequence(2, [*one.tokens[:20], 5], 21, 30)
    line.add(two)
    assert step(line) == [(2, 20, 1, 0)]
    assert two.blocks == [1, 2, 3, 4, 5, 6]


def test_a_cancelled_sequence_leaves_from_wherever_it_is() -> None:
    line = scheduler(max_running=1)
    first, second, third = sequence(0, 5), sequence(1, 5), sequence(2, 5)
    for each in (first, second, third):
        line.add(each)
    step(line)
    line.remove(second)
    line.remove(first)
    assert (line.running, line.waiting, line._pool.in_use) == (0, 1, 0)
    assert step(line) == [(2, 0, 5, 0)]
    with pytest.raises(ValueError, match="not in"):
        line.remove(first)


def test_what_could_never_run_is_our_own_bug() -> None:
    line = scheduler(num_blocks=2)
    with pytest.raises(AssertionError):
        line.add(sequence(0, 5, output=4))
    line.add(sequence(1, 5, output=3))
    with pytest.raises(AssertionError, match="order of their numbers"):
        line.add(sequence(1, 5, output=3))


def test_the_longest_sequence_that_fits_ends_alone() -> None:
    line = scheduler(num_blocks=3)
    one = sequence(0, 5, output=7)
    line.add(one)
    while len(one.tokens) < one.max_length:
        assert step(line)
    assert (line.preemptions, len(one.blocks)) == (0, 3)


class Cache:
    """What each slot of the memory holds: the number of the text that ends there. Equal texts under
    one adapter have equal numbers.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.slots: dict[tuple[int, int], int] = {}
        self.numbers: dict[tuple[int | str | None, int], int] = {}

    def texts(self, one: Sequence) -> list[int]:
        """For each token and draft token of a sequence, the number of the text up to it."""
        numbers: list[int] = []
        for token in one.tokens + one.draft:
            before = numbers[-1] if numbers else one.adapter
            numbers.append(self.numbers.setdefault((before, token), len(self.numbers)))
        return numbers

    def slot(self, one: Sequence, position: int) -> tuple[int, int]:
        """Where a sequence's keys and values of a position stand; IndexError where it has no block
        for it.
        """
        return one.blocks[position // self.block_size], position % self.block_size

    def write(self, work: Work) -> set[int]:
        """Fill the slots of a work; returns their blocks."""
        texts = self.texts(work.sequence)
        slots = {
            self.slot(work.sequence, position): texts[position]
            for position in range(work.start, work.start + work.count)
        }
        self.slots |= slots
        return {block for block, _ in slots}

    def holds(self, one: Sequence, end: int) -> bool:
        """Whether a sequence finds its own text in all slots before `end`."""
        return [self.slots.get(self.slot(one, position)) for position in range(end)] == self.texts(
            one
        )[:end]


class Simulation:
    """An engine whose model is a die: a scheduler beside the cache it speaks of, with all that must
    hold checked at every step.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_running: int,
        max_step_tokens: int,
        match_prefix: bool = True,
    ) -> None:
        self.pool = BlockPool(num_blocks, block_size, match_prefix)
        self.line = Scheduler(self.pool, max_running=max_running, max_step_tokens=max_step_tokens)
        self.max_running, self.max_step_tokens = max_running, max_step_tokens
        self.cache = Cache(block_size)
        self.alive: list[Sequence] = []  # oldest first
        self.arrived = self.accepted = 0

    def add(
        self,
        prompt: list[int],
        output: int,
        adapter: str | None = None,
        match_prefix: bool = True,
        insert_blocks: bool = True,
    ) -> None:
        """A newcomer, cut to what the whole cache can hold; without output it only wants its prompt
        computed.
        """
        capacity = self.pool.num_blocks * self.pool.block_size
        prompt = prompt[:capacity]
        newcomer = Sequence(
            self.arrived,
            prompt,
            len(prompt),
            min(len(prompt) + output, capacity),
            adapter,
            match_prefix,
            insert_blocks,
        )
        self.arrived += 1
        self.alive.append(newcomer)
        self.line.add(newcomer)

    def remove(self, one: Sequence) -> None:
        self.line.remove(one)
        self.alive.remove(one)

    def plan(self, rng: random.Random) -> list[Work]:
        for one in self.alive:
            one.draft = [rng.choice((0, TWIN)) for _ in range(rng.randrange(6))]
        left = {one: len(one.tokens) - one.computed for one in self.alive if one.blocks}
        works = self.line.plan()
        planned = {work.sequence for work in works}
        assert len(planned) == len(works)
        assert sum(work.count for work in works) <= self.max_step_tokens
        for work in works:
            one = work.sequence
            certain = work.start + work.count - work.drafts
            assert work.start == one.computed
            assert one.computed < certain <= len(one.tokens)
            assert work.samples == (certain == len(one.tokens))
            assert 0 <= work.drafts <= len(one.draft)
            assert not work.drafts or (work.samples and certain + work.drafts < one.max_length)
        assert set(self.alive[:1]) <= planned, "the oldest goes on in every step, so all end"
        if self.max_step_tokens >= self.max_running + self.pool.block_size:
            assert {one for one in left if left[one] == 1 and one.blocks} <= planned, (
                "all that decode do, or were preempted"
            )
        if self.max_step_tokens > 1:
            assert set([one for one in left if left[one] > 1 and one.blocks][:1]) <= planned, (
                "the oldest prompt goes on"
            )
        return works

    def step(self, rng: random.Random, end: float = 0.05) -> None:
        """Plan, compute, and take in random tokens; each sequence that got one ends with the
        probability `end`.
        """
        works = self.plan(rng)
        blocks = [self.cache.write(work) for work in works]
        assert sum(map(len, blocks)) == len(set().union(*blocks)), "no two write the same block"
        for work in works:
            one = work.sequence
            assert self.cache.holds(one, work.start + work.count), (
                "attention reads the sequence's own text"
            )
            new = []
            if work.samples and one.max_length > one.prompt_length:
                accepted = rng.randint(0, work.drafts)
                self.accepted += accepted
                new = [*one.draft[:accepted], rng.choice((0, TWIN))]
            self.line.complete(work, new)
            assert len(one.tokens) <= one.max_length
            if work.samples and (len(one.tokens) == one.max_length or rng.random() < end):
                self.remove(one)
        self.check()

    def fail(self, rng: random.Random) -> None:
        """A step of which only some is written, so that its sequences end."""
        for work in self.plan(rng):
            if rng.random() < 0.5:
                self.cache.write(work)
            self.remove(work.sequence)
        self.pool.reset()
        self.check()

    def drain(self, rng: random.Random) -> None:
        """Run to the end: the oldest computes a token in each step, so there are no more steps than
        tokens.
        """
        for _ in range(sum(one.max_length for one in self.alive)):
            if self.alive:
                self.step(rng, end=0)
        assert not self.alive
        assert (self.pool.in_use, self.line.running, self.line.waiting, self.line.plan()) == (
            0,
            0,
            0,
            [],
        )

    def check(self) -> None:
        """What holds between steps: each block is somebody's as often as the pool thinks, and every
        text is where its sequence looks.
        """
        running = [one for one in self.alive if one.blocks]
        users = Counter(block for one in running for block in one.blocks)
        assert [users[block] for block in range(self.pool.num_blocks)] == self.pool._ref_counts
        assert self.pool.in_use == len(users) == self.pool.num_blocks - self.pool.available
        assert (self.line.running, self.line.waiting) == (
            len(running),
            len(self.alive) - len(running),
        )
        assert running == self.alive[: len(running)], "the oldest run"
        assert len(running) <= self.max_running
        for one in running:
            assert len(set(one.blocks)) == len(one.blocks)
            assert self.cache.holds(one, one.computed)
        assert not any(one.computed for one in self.alive[len(running) :])
        assert all(len(one.tokens) - one.computed == 1 for one in running[:-1]), (
            "one prompt after the other"
        )


def random_prompt(rng: random.Random, longest: int) -> list[int]:
    """Of two ids whose tuples collide; most are a beginning of one of two texts."""
    base = [0, TWIN, TWIN, 0] * longest if rng.random() < 0.5 else [TWIN] * longest
    cut = rng.randint(0, longest - 1)
    return base[:cut] + [rng.choice((0, TWIN)) for _ in range(rng.randint(1, 3))]


@pytest.mark.parametrize("seed", range(6))
def test_a_crowd_in_a_small_cache_is_served_to_the_last(seed: int) -> None:
    rng = random.Random(seed)
    crowd = Simulation(num_blocks=24, block_size=4, max_running=6, max_step_tokens=20)
    for _ in range(150):
        if rng.random() < 0.5:
            crowd.add(
                random_prompt(rng, 40),
                rng.randint(0, 25),
                rng.choice((None, None, "law")),
                rng.random() < 0.8,
                rng.random() < 0.8,
            )
        crowd.step(rng)
    assert crowd.line.preemptions > 0
    assert crowd.line.shared_tokens > 0
    assert crowd.accepted > 0
    crowd.drain(rng)


class RandomSchedules(RuleBasedStateMachine):
    """Newcomers, cancellations, steps and failures in any order, in caches that are mostly too
    small.
    """

    @initialize(
        num_blocks=st.integers(1, 12),
        block_size=st.integers(1, 4),
        max_running=st.integers(1, 5),
        max_step_tokens=st.integers(1, 24),
        match_prefix=st.booleans(),
    )
    def begin(
        self,
        num_blocks: int,
        block_size: int,
        max_running: int,
        max_step_tokens: int,
        match_prefix: bool,
    ) -> None:
        self.crowd = Simulation(num_blocks, block_size, max_running, max_step_tokens, match_prefix)

    @rule(
        prompt=st.lists(st.sampled_from([0, TWIN]), min_size=1, max_size=20),
        output=st.integers(0, 20),
        adapter=st.sampled_from([None, None, "law"]),
        match_prefix=st.booleans(),
        insert_blocks=st.booleans(),
        times=st.integers(1, 3),
    )
    def add(
        self,
        prompt: list[int],
        output: int,
        adapter: str | None,
        match_prefix: bool,
        insert_blocks: bool,
        times: int,
    ) -> None:
        for _ in range(times):
            self.crowd.add(prompt, output, adapter, match_prefix, insert_blocks)

    @rule(seed=st.integers(0, 1000), times=st.integers(1, 5))
    def step(self, seed: int, times: int) -> None:
        rng = random.Random(seed)
        for _ in range(times):
            self.crowd.step(rng)

    @rule(seed=st.integers(0, 1000))
    def fail(self, seed: int) -> None:
        self.crowd.fail(random.Random(seed))

    @precondition(lambda self: self.crowd.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.crowd.remove(data.draw(st.sampled_from(self.crowd.alive)))
        self.crowd.check()

    def teardown(self) -> None:
        if hasattr(self, "crowd"):
            self.crowd.drain(random.Random(0))


TestRandomSchedules = RandomSchedules.TestCase
TestRandomSchedules.settings = settings(max_examples=100, stateful_step_count=20, derandomize=True)
