"""The block pool by hand, and beside a slow model of it under random use."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from puna.inference.block_pool import BlockPool

TWIN = 2**61 - 1  # hash(TWIN) == hash(0), so tuples of the two collide wherever they differ


def text(pool: BlockPool, ids: list[int], adapter: str | None = None) -> list[int]:
    """A text that took blocks of its own and inserted the full ones."""
    blocks = pool.allocate(-(-len(ids) // pool.block_size))
    assert blocks is not None
    pool.insert(blocks, ids, adapter, 0, len(ids) // pool.block_size)
    return blocks


def test_blocks_are_counted_as_free_evictable_or_in_use() -> None:
    pool = BlockPool(6, 2)
    assert (pool.available, pool.in_use, pool.evictable) == (6, 0, 0)
    blocks = text(pool, [1, 2, 3])
    assert (pool.available, pool.in_use, pool.evictable) == (4, 2, 0)
    pool.acquire(blocks[:1])
    pool.release(blocks)
    # the second block is not full, so nothing of it is cached
    assert (pool.available, pool.in_use, pool.evictable) == (5, 1, 0)
    pool.release(blocks[:1])
    assert (pool.available, pool.in_use, pool.evictable) == (6, 0, 1)


def test_the_longest_cached_prefix_of_full_blocks_is_found() -> None:
    pool = BlockPool(8, 2)
    blocks = text(pool, [1, 2, 3, 4, 5])
    assert pool.match([1, 2, 3, 4, 5, 6], None) == blocks[:2]
    assert pool.match([1, 2, 3, 4], None) == blocks[:2]
    assert pool.match([1, 2, 3], None) == blocks[:1]
    assert pool.match([1, 2, 9, 4], None) == blocks[:1]
    assert pool.match([1], None) == pool.match([], None) == []
    assert pool.match([3, 4], None) == [], "the same ids after another text are other content"
    assert pool.in_use == 3, "finding takes no reference"


def test_texts_under_different_adapters_share_nothing() -> None:
    pool = BlockPool(8, 2)
    plain, adapted = text(pool, [1, 2, 3, 4]), text(pool, [1, 2, 3, 4], "law")
    assert pool.match([1, 2, 3, 4], None) == plain
    assert pool.match([1, 2, 3, 4], "law") == adapted
    assert pool.match([1, 2, 3, 4], "medicine") == []


def test_ids_decide_where_hashes_collide() -> None:
    pool = BlockPool(8, 2)
    assert hash((0, 0)) == hash((TWIN, 0)) == hash((0, TWIN))
    first = text(pool, [0, 0, 0, TWIN])
    assert pool.match([TWIN, 0, 0, TWIN], None) == []
    assert pool.match([0, 0, 0, 0], None) == first[:1]
    second = text(pool, [TWIN, 0, 0, TWIN])
    assert pool.match([0, 0, 0, TWIN], None) == first
    assert pool.match([TWIN, 0, 0, TWIN], None) == second


def test_a_pool_may_share_nothing() -> None:
    pool = BlockPool(4, 2, prefix_caching=False)
    blocks = text(pool, [1, 2, 3, 4])
    assert pool.match([1, 2, 3, 4], None) == []
    pool.release(blocks)
    assert (pool.available, pool.evictable) == (4, 0)


def test_more_than_is_free_is_not_handed_out_and_nothing_changes() -> None:
    pool = BlockPool(4, 2)
    pool.release(text(pool, [1, 2, 3, 4]))
    held = pool.allocate(1)
    assert pool.allocate(4) is None
    assert (held, pool.available, pool.evictable) == ([2], 3, 2)
    assert pool.match([1, 2, 3, 4], None) == [0, 1]
    assert pool.allocate(0) == []


def test_the_least_recently_used_block_is_evicted_and_the_end_of_a_text_before_its_beginning() -> (
    None
):
    pool = BlockPool(4, 2)
    old, new = text(pool, [1, 2, 3, 4]), text(pool, [5, 6, 7, 8])
    pool.release(old)
    pool.release(new)
    assert pool.allocate(1) == old[1:]
    assert pool.match([1, 2, 3, 4], None) == old[:1]
    pool.acquire(old[:1])  # a use makes it the newest
    pool.release(old[:1])
    assert pool.allocate(1) == new[1:]
    assert pool.allocate(1) == new[:1]
    assert pool.match([1, 2, 3, 4], None) == old[:1]
    assert pool.allocate(1) == old[:1]
    assert (pool.available, pool.allocate(1)) == (0, None)


def test_free_blocks_go_before_evictable_ones() -> None:
    pool = BlockPool(3, 2)
    pool.release(text(pool, [1, 2]))
    assert pool.allocate(2) == [1, 2]
    assert pool.match([1, 2], None) == [0]


def test_what_is_used_is_never_evicted() -> None:
    pool = BlockPool(2, 2)
    one, _ = text(pool, [1, 2, 3, 4])
    pool.acquire([one])
    pool.release([one])
    assert pool.allocate(1) is None
    assert pool.match([1, 2, 3, 4], None) == [0, 1]


def test_a_cached_block_is_revived() -> None:
    pool = BlockPool(2, 2)
    blocks = text(pool, [1, 2])
    pool.release(blocks)
    pool.acquire(pool.match([1, 2], None))
    assert (pool.in_use, pool.evictable) == (1, 0)
    assert pool.allocate(2) is None


def test_of_two_equal_blocks_the_first_stays_cached_and_texts_go_on_behind_it() -> None:
    pool = BlockPool(8, 2)
    first, second = text(pool, [1, 2, 3, 4]), text(pool, [1, 2, 3, 4, 5, 6])
    assert pool.match([1, 2, 3, 4, 5, 6], None) == [*first, second[2]]
    pool.release(second)
    assert (pool.in_use, pool.evictable) == (2, 1), "its first two blocks were not cached"
    assert pool.match([1, 2, 3, 4, 5, 6], None) == [*first, second[2]]


def test_a_text_is_inserted_bit_by_bit() -> None:
    pool = BlockPool(8, 2)
    ids = [1, 2, 3, 4, 5, 6, 7]
    blocks = pool.allocate(4)
    assert blocks is not None
    for already, full in [(0, 1), (1, 1), (1, 3)]:
        pool.insert(blocks, ids, None, already, full)
        assert pool.match(ids, None) == blocks[:full]
    matched = pool.match([1, 2, 3, 4, 9, 9], None)
    pool.acquire(matched)
    own = pool.allocate(1)
    assert own is not None
    # a text that goes on from blocks it found
    pool.insert(matched + own, [1, 2, 3, 4, 9, 9], None, 2, 3)
    assert pool.match([1, 2, 3, 4, 9, 9], None) == matched + own


def test_what_follows_an_evicted_block_is_out_of_reach_though_equal_text_comes_back() -> None:
    """The block behind was computed once after this very text, but its key names the serial of the
    content that went away.
    """
    pool = BlockPool(4, 2)
    first = text(pool, [1, 2])
    second = text(pool, [1, 2, 3, 4])
    pool.release(first)
    assert pool.match([1, 2, 3, 4], None) == [first[0], second[1]]
    taken = pool.allocate(2)
    assert taken is not None
    assert first[0] in taken
    assert pool.match([1, 2, 3, 4], None) == []
    pool.release(taken)
    again = text(pool, [1, 2])
    assert pool.match([1, 2, 3, 4], None) == again


def test_reset_frees_the_cached_and_leaves_the_used() -> None:
    pool = BlockPool(6, 2)
    pool.release(text(pool, [1, 2, 3, 4]))
    held = text(pool, [5, 6, 7, 8])
    pool.reset()
    assert pool.match([1, 2], None) == pool.match([5, 6], None) == []
    assert (pool.available, pool.in_use, pool.evictable) == (4, 2, 0)
    again = text(pool, [5, 6])
    assert pool.match([5, 6, 7, 8], None) == again
    pool.release(held)
    assert (pool.available, pool.in_use, pool.evictable) == (5, 1, 0)


def test_a_text_that_grows_stays_in_one_piece_where_that_is_possible() -> None:
    pool = BlockPool(12, 2)
    assert pool.allocate(3) == [0, 1, 2]
    assert pool.allocate(2) == [3, 4]
    pool.release([0, 2])
    assert pool.allocate(3) == [5, 6, 7], "the first position for three side by side"
    assert pool.allocate(1, after=7) == [8], "not the holes at 0 and 2"
    assert pool.allocate(1, after=4) == [0], "5 is taken"
    assert pool.allocate(4) == [2, 9, 10, 11], "no four stand side by side"


def test_evicted_blocks_are_handed_out_in_ascending_order() -> None:
    pool = BlockPool(3, 1)
    pool.release(text(pool, [1, 2, 3]))
    assert pool.allocate(3) == [0, 1, 2]


def test_a_block_released_too_often_is_our_own_bug() -> None:
    pool = BlockPool(2, 2)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.release(blocks)
    with pytest.raises(AssertionError, match="block 0 was released more often than acquired"):
        pool.release(blocks)


class PoolBesideItsModel(RuleBasedStateMachine):
    """Texts of few different ids come, grow and go. The model says what each cached block holds as
    the whole text up to its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(10, 2)
        # blocks, ids (full blocks of them), adapter
        self.texts: list[tuple[list[int], list[int], str | None]] = []
        # by block: what was last inserted of it
        self.held: dict[int, tuple[str | None, tuple[int, ...]]] = {}

    @rule(
        ids=st.lists(st.sampled_from([0, TWIN]), max_size=8), adapter=st.sampled_from([None, "law"])
    )
    def begin(self, ids: list[int], adapter: str | None) -> None:
        ids = ids[: len(ids) // 2 * 2]
        found = self.pool.match(ids, adapter)
        for index, block in enumerate(found):
            assert self.held[block] == (adapter, tuple(ids[: 2 * index + 2]))
        self.pool.acquire(found)
        before = (self.pool.available, self.pool.evictable)
        own = self.pool.allocate(len(ids) // 2 - len(found))
        assert (own is None) == (before[0] < len(ids) // 2 - len(found))
        if own is None:
            assert (self.pool.available, self.pool.evictable) == before
            self.pool.release(found)
            return
        assert own == sorted(own)
        self.insert(found + own, ids, adapter, len(found))
        self.texts.append((found + own, ids, adapter))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), more=st.lists(st.sampled_from([0, TWIN]), min_size=2, max_size=2))
    def grow(self, data: st.DataObject, more: list[int]) -> None:
        blocks, ids, adapter = data.draw(st.sampled_from(self.texts))
        own = self.pool.allocate(1, blocks[-1] if blocks else -1)
        if own is not None:
            blocks += own
            ids += more
            self.insert(blocks, ids, adapter, len(blocks) - 1)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        blocks, _, _ = self.texts.pop(data.draw(st.integers(0, len(self.texts) - 1)))
        self.pool.release(blocks)

    @rule()
    def reset(self) -> None:
        self.pool.reset()
        for _, ids, adapter in self.texts:
            assert self.pool.match(ids, adapter) == []
        assert self.pool.evictable == 0

    def insert(self, blocks: list[int], ids: list[int], adapter: str | None, already: int) -> None:
        for index in range(already, len(blocks)):
            self.held[blocks[index]] = (adapter, tuple(ids[: 2 * index + 2]))
        self.pool.insert(blocks, ids, adapter, already, len(blocks))

    @invariant()
    def every_block_is_counted_once(self) -> None:
        users = Counter(block for blocks, _, _ in self.texts for block in blocks)
        assert [users[block] for block in range(10)] == self.pool._ref_counts
        assert self.pool.in_use == len(users)
        assert self.pool.available + self.pool.in_use == self.pool.num_blocks
        assert 0 <= self.pool.evictable <= self.pool.available

    @invariant()
    def a_cached_block_holds_what_it_is_found_by(self) -> None:
        for _, ids, adapter in self.texts:
            for index, block in enumerate(self.pool.match(ids, adapter)):
                assert self.held[block] == (adapter, tuple(ids[: 2 * index + 2]))


TestPoolBesideItsModel = PoolBesideItsModel.TestCase
TestPoolBesideItsModel.settings = settings(
    max_examples=100, stateful_step_count=30, derandomize=True
)
