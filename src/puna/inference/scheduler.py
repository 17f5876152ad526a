"""Scheduler: the tokens of each sequence that the next step of the model computes. Integers only,
a few microseconds a sequence.

Not here: texts, tensors, and the content and eviction of blocks (block_pool.py). The policy, in
order of precedence:

1. A sequence with one token left to compute decodes: oldest first, one token each. A sequence that
    gets no block preempts the youngest.
2. Draft tokens after those, with what is left of the budget, and of memory while no newcomer waits
    for it. Nobody is preempted for a draft.
3. The prompt that is under way, in chunks of what is left of the budget; the others leave it a
    block's worth.
4. Newcomers in order of arrival, if all blocks of their tokens and of one more are free. They take
    them at once, so a prompt under way never wants for memory.

A preempted sequence waits in front of the others and computes its tokens anew, but for the blocks
that are still cached. The oldest sequence is never preempted for another, so every sequence ends.
Sources: iteration-level scheduling in Orca (Yu et al., OSDI 2022), chunked prefills in
Sarathi-Serve (Agrawal et al. 2024, https://arxiv.org/abs/2403.02310), preemption by recomputing in
vLLM (Kwon et al. 2023, https://arxiv.org/abs/2309.06180, section 4.5).
"""

from collections import abc, deque
from dataclasses import dataclass, field

from puna.inference.block_pool import BlockPool


@dataclass(slots=True, eq=False)
class Sequence:
    """One of a request's n sequences, as the scheduler sees it: integers only. Only the scheduler
    changes it, but for `draft`. The engine's view of the same sequence, with its request,
    constraint and output, is `sequence.SequenceState`, which holds this one.
    """

    number: int
    """Order of arrival, unique; smaller is older."""
    tokens: list[int]
    """The prompt, then the output."""
    prompt_length: int
    max_length: int
    """Tokens it may reach: prompt and output, at most the context length."""
    adapter: str | None = None
    """Its name; blocks are shared only among sequences of the same adapter."""
    match_prefix: bool = True
    """May take cached blocks; false where every row of the prompt is wanted."""
    insert_blocks: bool = True
    """Its full blocks are cached for others."""
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    blocks: list[int] = field(default_factory=list)
    """Its blocks of the cache, in order; empty while it waits."""
    draft: list[int] = field(default_factory=list)
    """Draft tokens after `tokens`, to be verified in the next step; emptied after it."""
    cached: int | None = None
    """Tokens of the prompt that were cached when it was first admitted; None before."""


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a step: `count` of its tokens and draft from position `start`."""

    sequence: Sequence
    start: int
    count: int
    drafts: int
    """Draft tokens among the `count`, the last ones."""
    samples: bool
    """True where the last of the tokens is among them, so that the next can be sampled."""


class Scheduler:
    """Plans step after step: plan(), the step itself, then complete() for each work of the plan.

    max_running: sequences that hold memory at a time. max_step_tokens: the bound on a step's
    tokens, drafts included; with fewer than max_running + block_size the youngest sequences skip
    steps. preemptions counts how often memory was taken back, shared_tokens the tokens of prompts
    that were cached when their sequences were first admitted.

    Blocks that a step fills are cached from its plan on, so a work may build on blocks that a work
    before it in the same plan writes. Hence after a step that failed: remove all sequences of its
    plan, and `BlockPool.reset`.
    """

    def __init__(self, pool: BlockPool, *, max_running: int, max_step_tokens: int) -> None:
        assert max_running > 0, max_running
        assert max_step_tokens > 0, max_step_tokens
        self._pool = pool
        self._max_running, self._max_step_tokens = max_running, max_step_tokens
        self._prefill_share = min(pool.block_size, max_step_tokens // 2)
        # Both in order of age, every running sequence older than every waiting one
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        # The one that memory was short for, and the free blocks it wants: matching its text at
        # every step would cost more than the rest of the plan. It was tried when no prompt was left
        # over, so what it may share hardly grows while it waits
        self._blocked: Sequence | None = None
        self._wanted = 0
        self.preemptions = 0
        self.shared_tokens = 0

    @property
    def running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that hold none: newcomers and preempted ones."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn. It must be younger than all others, and its max_length
        must fit the whole cache.
        """
        assert (
            0
            < len(sequence.tokens)
            <= sequence.max_length
            <= self._pool.num_blocks * self._pool.block_size
        )
        youngest = self._waiting or self._running
        assert not youngest or youngest[-1].number < sequence.number, (
            "sequences come in the order of their numbers"
        )
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let go of a sequence that ended or was cancelled, and of its blocks. Raises ValueError if
        it is not here.
        """
        if sequence.blocks:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting.remove(sequence)

    def plan(self) -> list[Work]:
        """The works of the next step; empty only if there are no sequences. Drafts that do not
        fit are left out.
        """
        # A prompt under way, or a newcomer, is sure of this much of the budget, so that a crowd of
        # decoding sequences and their drafts cannot starve it
        share = self._prefill_share
        decoding = self._decoding(
            self._max_step_tokens - (share if self._prompt_under_way() else 0)
        )
        # Asked again: taking blocks for the decoding ones may have preempted it
        prefill = self._prompt_under_way()
        budget = self._max_step_tokens - len(decoding)
        newcomers = bool(self._waiting) and len(self._running) < self._max_running
        for_drafts = budget - (share if prefill or newcomers else 0)
        works: list[Work] = []
        # The tokens of `decoding` are paid for already; drafts take of what is left
        for sequence in decoding:
            drafts = (
                self._drafts_that_fit(sequence, for_drafts, may_grow=not newcomers)
                if sequence.draft
                else 0
            )
            for_drafts -= drafts
            budget -= drafts
            works.append(self._work(sequence, 1 + drafts, drafts))
        # At most the last of these prompts is cut: a cut one uses the budget up
        while budget and (prefill := prefill or self._admitted()):
            count = min(len(prefill.tokens) - prefill.computed, budget)
            works.append(self._work(prefill, count))
            budget -= count
            prefill = None
        return works

    def complete(self, work: Work, new_tokens: abc.Sequence[int]) -> None:
        """Append what a step gave for a work: the accepted drafts and the token after them; nothing
        if the work samples nothing.

        The text may end within the drafts: then new_tokens ends there, and the caller removes the
        sequence, as it does where a work that samples is to give no token at all.
        """
        sequence = work.sequence
        # A work completed twice, or late, would count tokens that the cache does not hold
        assert sequence.computed == work.start, (
            "each work is completed once, and before the next plan"
        )
        assert len(new_tokens) <= (work.drafts + 1 if work.samples else 0)
        sequence.tokens += new_tokens
        certain = work.start + work.count - work.drafts
        # The last of new_tokens was only sampled: its keys and values come with the next
        # step. Those of rejected drafts stay in the blocks until that step writes over them
        sequence.computed = certain + max(len(new_tokens) - 1, 0)
        if sequence.draft:
            sequence.draft = []
        if work.drafts:
            # `_work` left these out: only now are the accepted ones certain
            self._insert(sequence, certain, sequence.computed)
            surplus = sequence.blocks[self._blocks_for(len(sequence.tokens)) :]
            if surplus:  # taken for drafts that were rejected
                self._pool.release(surplus)
                del sequence.blocks[-len(surplus) :]

    def _decoding(self, limit: int) -> list[Sequence]:
        """The oldest `limit` sequences that decode in this step, each with a block for its token;
        preempts until they have one.
        """
        size = self._pool.block_size
        decoding: list[Sequence] = []
        # from its end the youngest are preempted, so all in `decoding` stay
        for sequence in self._running:
            if len(decoding) == limit or len(sequence.tokens) - sequence.computed > 1:
                break
            if len(sequence.blocks) * size >= len(sequence.tokens) or self._grow(sequence):
                decoding.append(sequence)
        return decoding

    def _prompt_under_way(self) -> Sequence | None:
        """The sequence with more than one token left: the youngest or none, since newcomers come in
        only when no prompt is left over.
        """
        if self._running and len(self._running[-1].tokens) - self._running[-1].computed > 1:
            return self._running[-1]
        return None

    def _grow(self, sequence: Sequence) -> bool:
        """Give a sequence one more block, at the cost of younger ones; False if it was the
        youngest, and is preempted itself.
        """
        # Ends: at the latest when the sequence has preempted itself
        while (block := self._pool.allocate(1, sequence.blocks[-1])) is None:
            youngest = self._running.pop()
            self._release(youngest)
            youngest.computed = 0
            # In front: it is older than all that wait, which keeps the queue in order of age
            self._waiting.appendleft(youngest)
            self.preemptions += 1
            if youngest is sequence:
                return False
        sequence.blocks += block
        return True

    def _drafts_that_fit(self, sequence: Sequence, budget: int, may_grow: bool) -> int:
        """Draft tokens that a sequence may verify; takes blocks for them if it may. The last token
        it may reach is never a draft.
        """
        length = len(sequence.tokens)
        # - 1: a verified draft is always followed by one more sampled token
        drafts = max(min(len(sequence.draft), budget, sequence.max_length - length - 1), 0)
        missing = self._blocks_for(length + drafts) - len(sequence.blocks)
        if missing > 0 and may_grow:
            sequence.blocks += (
                self._pool.allocate(min(missing, self._pool.available), sequence.blocks[-1]) or []
            )
        return min(drafts, len(sequence.blocks) * self._pool.block_size - length)

    def _admitted(self) -> Sequence | None:
        """The first in the queue, running now, if its memory is free: all blocks of its tokens and
        of one more, if there will be one.
        """
        if not self._waiting or len(self._running) == self._max_running:
            return None
        sequence, pool = self._waiting[0], self._pool
        free = pool.available
        if sequence is self._blocked and free < self._wanted:
            return None
        length = len(sequence.tokens)
        # The last token is always computed: what comes after it is read off there
        blocks = (
            pool.match(sequence.tokens, sequence.adapter)[: (length - 1) // pool.block_size]
            if sequence.match_prefix
            else []
        )
        # Before allocating, which could evict the very blocks that were matched
        pool.acquire(blocks)
        missing = self._blocks_for(min(length + 1, sequence.max_length)) - len(blocks)
        own = pool.allocate(missing, blocks[-1] if blocks else -1)
        if own is None:
            # `free` counted the matched blocks that were evictable; acquiring made them unavailable
            self._blocked, self._wanted = sequence, missing + free - pool.available
            pool.release(blocks)
            return None
        self._running.append(self._waiting.popleft())
        sequence.blocks = blocks + own
        sequence.computed = len(blocks) * pool.block_size
        # Once: a preempted sequence that finds its own blocks again shares with nobody
        if sequence.cached is None:
            sequence.cached = sequence.computed
            self.shared_tokens += sequence.computed
        return sequence

    def _work(self, sequence: Sequence, count: int, drafts: int = 0) -> Work:
        """Put a run of tokens in the plan. The blocks that its certain tokens fill are cached from
        now on; drafts may yet be rejected.
        """
        start = sequence.computed
        certain = start + count - drafts
        assert certain <= len(sequence.tokens), (
            "a sequence that got no token should have been removed"
        )
        self._insert(sequence, start, certain)
        return Work(sequence, start, count, drafts, samples=certain == len(sequence.tokens))

    def _insert(self, sequence: Sequence, before: int, now: int) -> None:
        size = self._pool.block_size
        if sequence.insert_blocks and now // size > before // size:
            self._pool.insert(
                sequence.blocks, sequence.tokens, sequence.adapter, before // size, now // size
            )

    def _release(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_size)
