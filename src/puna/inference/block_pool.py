"""Block pool of the key/value cache: allocation, reference counts, prefix caching and eviction.

A block holds the keys and values of `block_size` tokens and is in one of three states: in use (its
reference count is above 0), evictable (count 0, but its content is cached and may be matched), or
free (count 0, nothing cached). `allocate` takes free blocks first; where they are too few,
`BlockPool._evict` drops the least recently used evictable ones. The order of eviction is that of
`BlockPool._evictable`: `release` appends to it, `_evict` takes from its front.

Not the memory itself (kv_cache.py), nor preemption of sequences when it is short (scheduler.py).
Integers only: a block's turn through the pool costs about a microsecond, and inserting or matching
one as much as hashing its ids.

A full block is cached under (serial of the block before it, its own ids); the first of a text under
(adapter, its ids). The look-up compares the ids themselves, so texts whose hashes collide are never
mixed up, and a serial is never used twice, so a key that outlives the block before it is out of
reach. Source of the idea: prefix caching by chained blocks in vLLM (Kwon et al. 2023,
https://arxiv.org/abs/2309.06180, section 4.3), there with hashes in place of serials and ids.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import compress, count, islice

Key = tuple[int | str | None, tuple[int, ...]]
"""Key of a cached block: the serial of the block before it, or the adapter's name, and its ids."""


class BlockPool:
    """Allocator of the blocks 0 to num_blocks - 1, with a prefix cache of the full ones.

    prefix_caching: whether blocks are cached at all; without it no block is ever evictable.
    """

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        assert num_blocks > 0, num_blocks
        assert block_size > 0, block_size
        self.num_blocks, self.block_size = num_blocks, block_size
        self._prefix_caching = prefix_caching
        self._ref_counts = [0] * num_blocks
        # 1 for a free block; bytes, because finding a run of them is one call
        self._free = bytearray(b"\1") * num_blocks
        self._num_free = num_blocks
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._cached: dict[Key, int] = {}
        self._keys: list[Key | None] = [None] * num_blocks
        # identity of a block's content, once inserted; equal for blocks of equal content
        self._serials = [0] * num_blocks
        self._new_serials = count(1)

    @property
    def available(self) -> int:
        """Blocks that can be allocated now: free and evictable ones."""
        return self._num_free + len(self._evictable)

    @property
    def in_use(self) -> int:
        """Blocks with a reference count above 0."""
        return self.num_blocks - self.available

    @property
    def evictable(self) -> int:
        """Blocks with a reference count of 0 whose content is still cached."""
        return len(self._evictable)

    def match(self, ids: Sequence[int], adapter: str | None) -> list[int]:
        """The blocks of the longest cached prefix of `ids` under `adapter`, full blocks only;
        their reference counts stay.
        """
        found: list[int] = []
        parent: int | str | None = adapter
        size = self.block_size
        # A chain: each key names the serial of the block before, so the first miss ends the match
        for end in range(size, len(ids) + 1, size):
            block = self._cached.get((parent, tuple(ids[end - size : end])))
            if block is None:
                break
            found.append(block)
            parent = self._serials[block]
        return found

    def acquire(self, blocks: Sequence[int]) -> None:
        """Add a reference to each of these cached blocks; evictable ones are in use again."""
        for block in blocks:
            if not self._ref_counts[block]:
                del self._evictable[block]
            self._ref_counts[block] += 1

    def allocate(self, count: int, after: int = -1) -> list[int] | None:
        """`count` blocks with a reference count of 1, in ascending order, or None and nothing
        changed if fewer are available.

        Where free blocks are too few, the least recently used evictable ones are evicted. The
        blocks are those that follow block `after` if they are free, else the first free run of that
        length, else the first free ones: attention reads a run of blocks without copying it.
        """
        if count > self.available:
            return None
        # One by one, and no more than needed: what is evicted has to be computed again
        while self._num_free < count:
            self._evict()
        # `_free` is searched as a string of bytes for `count` free blocks side by side
        run = b"\1" * count
        first = after + 1 if self._free.startswith(run, after + 1) else self._free.find(run)
        taken = (
            list(range(first, first + count))
            if first >= 0
            else list(islice(compress(range(self.num_blocks), self._free), count))
        )
        self._num_free -= count
        for block in taken:
            self._free[block] = 0
            self._ref_counts[block] = 1
        return taken

    def insert(
        self,
        blocks: Sequence[int],
        ids: Sequence[int],
        adapter: str | None,
        already: int,
        full: int,
    ) -> None:
        """Cache the blocks number `already` to `full` - 1 of a text; those before them must have
        been inserted or matched.

        blocks, ids: all of the text's, from its beginning; `ids` fill at least `full` blocks. A
        block whose equal is cached already is not cached a second time, but blocks after it are
        matched behind that equal one.
        """
        if not self._prefix_caching:
            return
        size = self.block_size
        parent: int | str | None = self._serials[blocks[already - 1]] if already else adapter
        for index in range(already, full):
            block = blocks[index]
            key = (parent, tuple(ids[index * size : (index + 1) * size]))
            first = self._cached.setdefault(key, block)
            # A block that is cached already keeps its key and its serial
            if first == block and self._keys[block] is None:
                self._keys[block] = key
                self._serials[block] = next(self._new_serials)
            else:
                # a copy takes the serial of the cached one, so its successors chain to that
                self._serials[block] = self._serials[first]
            parent = self._serials[block]

    def release(self, blocks: Sequence[int]) -> None:
        """Drop a reference to each of these blocks of one text, given in its order.

        A cached block whose count falls to 0 becomes evictable, as the most recently used one; of
        these the last of the text is evicted first, since a block is of no use without those
        before it.
        """
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                assert self._ref_counts[block] > 0, (
                    f"block {block} was released more often than acquired"
                )
            elif self._keys[block] is None:
                self._set_free(block)
            else:
                self._evictable[block] = None

    def reset(self) -> None:
        """Empty the prefix cache, as after a step that failed and left blocks unwritten; blocks in
        use stay so.
        """
        while self._evictable:
            self._evict()
        # What is left is in use; without a key `release` frees it instead of keeping it evictable
        for block in self._cached.values():
            self._keys[block] = None
        self._cached.clear()

    def _evict(self) -> None:
        """Free the least recently used evictable block: its content can be matched no more."""
        block, _ = self._evictable.popitem(last=False)
        key = self._keys[block]
        assert key is not None
        del self._cached[key]
        self._keys[block] = None
        self._set_free(block)

    def _set_free(self, block: int) -> None:
        self._free[block] = 1
        self._num_free += 1
