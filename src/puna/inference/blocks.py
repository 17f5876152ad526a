"""The bookkeeping of the key/value cache: which block of `block_size` tokens is whose, and which
texts' blocks are still known.

Not the memory itself (kv_cache.py), nor who gets it when it is short (scheduler.py). Integers only:
a block's turn through the pool costs about a microsecond, and publishing or finding one as much as
hashing its ids.

A full block is known by (serial of the block before it, its own ids); the first of a text by (root,
its ids). The look-up compares the ids themselves, so texts whose hashes collide are never mixed up,
and a serial is never used twice, so a key that outlives the block before it is out of reach. Source
of the idea: prefix caching by chained blocks in vLLM (Kwon et al. 2023,
https://arxiv.org/abs/2309.06180, section 4.3), there with hashes in place of serials and ids.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import compress, count, islice

Key = tuple[int | str | None, tuple[int, ...]]
"""What a known block is found by: the serial before it, or the root, and its ids."""


class BlockPool:
    """Hands out blocks 0 to num_blocks - 1, counts their users, and keeps what unused ones hold
    until their memory is needed.

    A block is spare (unused, nothing known), cached (unused, known) or used. share: whether blocks
    become known at all.
    """

    def __init__(self, num_blocks: int, block_size: int, share: bool = True) -> None:
        assert num_blocks > 0, num_blocks
        assert block_size > 0, block_size
        self.num_blocks, self.block_size = num_blocks, block_size
        self._share = share
        self._users = [0] * num_blocks
        # bytes, because finding a run of them is one call
        self._spare = bytearray(b"\1") * num_blocks
        self._num_spare = num_blocks
        self._cached: OrderedDict[int, None] = OrderedDict()  # the next to be evicted first
        self._known: dict[Key, int] = {}
        self._keys: list[Key | None] = [None] * num_blocks
        # of what a block holds, once published; equal for blocks of equal content
        self._serials = [0] * num_blocks
        self._new_serials = count(1)

    @property
    def free(self) -> int:
        """Blocks that can be handed out now, cached ones included."""
        return self._num_spare + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks with at least one user."""
        return self.num_blocks - self.free

    @property
    def cached(self) -> int:
        """Blocks without users whose content is still known."""
        return len(self._cached)

    def match(self, ids: Sequence[int], root: str | None) -> list[int]:
        """The blocks of the longest known beginning of `ids` under `root` that is made of full
        blocks; no user is counted for them.
        """
        found: list[int] = []
        parent: int | str | None = root
        size = self.block_size
        for end in range(size, len(ids) + 1, size):
            block = self._known.get((parent, tuple(ids[end - size : end])))
            if block is None:
                break
            found.append(block)
            parent = self._serials[block]
        return found

    def acquire(self, blocks: Sequence[int]) -> None:
        """Count one more user of each of these known blocks."""
        for block in blocks:
            if not self._users[block]:
                del self._cached[block]
            self._users[block] += 1

    def allocate(self, count: int, after: int = -1) -> list[int] | None:
        """`count` blocks with one user each, in ascending order, or None and nothing changed if
        fewer are free.

        Where spare blocks are too few, the least recently used cached ones lose what they hold. The
        blocks are those that follow block `after` if they are spare, else the first that stand side
        by side, else the first ones.
        """
        if count > self.free:
            return None
        while self._num_spare < count:
            self._evict()
        run = b"\1" * count
        first = after + 1 if self._spare.startswith(run, after + 1) else self._spare.find(run)
        taken = (
            list(range(first, first + count))
            if first >= 0
            else list(islice(compress(range(self.num_blocks), self._spare), count))
        )
        self._num_spare -= count
        for block in taken:
            self._spare[block] = 0
            self._users[block] = 1
        return taken

    def publish(
        self, blocks: Sequence[int], ids: Sequence[int], root: str | None, already: int, full: int
    ) -> None:
        """Make the blocks number `already` to `full` - 1 of a text known; those before it must have
        been published or matched.

        blocks, ids: all of the text's, from its beginning; `ids` fill at least `full` blocks. A
        block whose equal is known already stays unknown, but blocks after it are found behind the
        known one.
        """
        if not self._share:
            return
        size = self.block_size
        parent: int | str | None = self._serials[blocks[already - 1]] if already else root
        for index in range(already, full):
            block = blocks[index]
            key = (parent, tuple(ids[index * size : (index + 1) * size]))
            known = self._known.setdefault(key, block)
            if known == block and self._keys[block] is None:
                self._keys[block] = key
                self._serials[block] = next(self._new_serials)
            else:
                self._serials[block] = self._serials[known]
            parent = self._serials[block]

    def release(self, blocks: Sequence[int]) -> None:
        """Count one user fewer of each of these blocks of one text, in its order.

        A known block that has none left is cached, as the most recently used one; of these the last
        of the text will be evicted first.
        """
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                assert self._users[block] > 0, f"block {block} was released more often than taken"
            elif self._keys[block] is None:
                self._set_spare(block)
            else:
                self._cached[block] = None

    def forget(self) -> None:
        """Drop all that is known, as after a step that failed and left blocks unwritten; used
        blocks stay with their users.
        """
        while self._cached:
            self._evict()
        for block in self._known.values():
            self._keys[block] = None
        self._known.clear()

    def _evict(self) -> None:
        block, _ = self._cached.popitem(last=False)
        key = self._keys[block]
        assert key is not None
        del self._known[key]
        self._keys[block] = None
        self._set_spare(block)

    def _set_spare(self, block: int) -> None:
        self._spare[block] = 1
        self._num_spare += 1
