"""Requests in, events out: continuous batching. The engine knows ids, not text; the scheduler
integers, the executor tensors.

Each `step` computes some tokens of many sequences at once: one new token for each that decodes,
draft tokens behind it, and chunks of prompts. A sequence can join or leave
between any two steps. Nothing here is a thread or a process: whoever owns the engine calls `step`
while it is `busy`, and a cancelled request has left before the next one.
"""

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from puna.errors import RequestError
from puna.inference.block_pool import BlockPool
from puna.inference.constrain import ConstraintCompiler, Matcher
from puna.inference.engine_config import EngineConfig
from puna.inference.engine_stats import EngineStats
from puna.inference.executor import Executor, ScheduledChunk, StepOutput
from puna.inference.logits_processors import SamplingRow
from puna.inference.request import Event, Request, TokenLogprobs
from puna.inference.sampling import choose, log_probabilities
from puna.inference.scheduler import Scheduler, Sequence, Work
from puna.inference.sequence import SequenceState
from puna.inference.speculation import PromptLookup

if TYPE_CHECKING:
    from puna.inference.executor import Logits


class Engine:
    """Generates for many requests at once, fairly and within its memory.

    `constraints` compiles what outputs must match; without it a request with a constraint is
    rejected.
    """

    def __init__(
        self,
        executor: Executor,
        options: EngineConfig | None = None,
        constraints: ConstraintCompiler | None = None,
    ) -> None:
        self.executor, self.options, self._constraints = (
            executor,
            options or EngineConfig(),
            constraints,
        )
        self.pool = BlockPool(executor.num_blocks, executor.block_size, self.options.prefix_caching)
        self.scheduler = Scheduler(
            self.pool,
            max_running=self.options.max_running,
            max_step_tokens=self.options.max_step_tokens,
        )
        self._of: dict[Sequence, SequenceState] = {}
        self._requests: dict[str, list[SequenceState]] = {}
        self._arrivals = 0
        self._stats = EngineStats(blocks=executor.num_blocks)

    @property
    def busy(self) -> bool:
        """True while there is anything left to compute."""
        return bool(self._of)

    def statistics(self) -> EngineStats:
        """Counts and gauges; the object is the engine's own and changes with it."""
        now = self._stats
        now.waiting, now.running = self.scheduler.waiting, self.scheduler.running
        now.used_blocks, now.preemptions = self.pool.in_use, self.scheduler.preemptions
        now.cached_tokens = self.scheduler.shared_tokens
        return now

    def check(self, request: Request) -> None:
        """Raise RequestError if this request can never be served here, whatever else is going
        on.
        """
        options, vocabulary, context = (
            request.options,
            self.executor.vocab_size,
            self.executor.context_length,
        )
        prompt, capacity = request.prompt, self.pool.num_blocks * self.pool.block_size
        if not prompt:
            raise RequestError(
                "the prompt is empty, but a model continues something: give at least one token"
            )
        # An embedding samples no token, and the only one of a request for one is never read: so
        # their prompts may fill the context
        longest = context if request.embed or options.max_tokens == 1 else context - 1
        if len(prompt) > longest:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, but the model's context of {context} must"
                " hold it and at least one more: shorten the prompt"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise RequestError(
                f"the prompt holds ids outside 0 to {vocabulary - 1}: it was made by another"
                " tokenizer"
            )
        if self._length(request) > capacity:
            raise RequestError(
                f"the prompt's {len(prompt)} tokens and {options.max_tokens} new ones do not fit"
                f" the key/value cache of {capacity} tokens: ask for fewer, or give the cache more"
                " memory"
            )
        strange = [
            token
            for token in (*options.stop_ids, *options.logit_bias)
            if not 0 <= token < vocabulary
        ]
        if strange:
            raise RequestError(
                f"the id {strange[0]} in stop_ids or logit_bias is outside 0 to {vocabulary - 1}"
            )
        if options.adapter is not None and options.adapter not in self.executor.adapters:
            loaded = ", ".join(sorted(self.executor.adapters)) or "none"
            raise RequestError(f"there is no adapter {options.adapter!r} here; loaded: {loaded}")
        if options.constraint is not None and (options.ignore_end or options.min_tokens):
            raise RequestError(
                "a constraint decides where the text ends: leave out ignore_end and min_tokens"
            )

    def add(self, request: Request) -> None:
        """Take a request in; its events come from the steps that follow. Raises RequestError if it
        can never be served.
        """
        self.check(request)
        assert request.id not in self._requests, f"{request.id} is in progress already"
        options = request.options
        # Compiled before any state changes: a constraint that no text matches raises here
        matcher = self._matcher(request)
        matchers = [matcher, *(matcher and matcher.copy() for _ in range(options.n - 1))]
        # One seed for the request, to which each sequence adds its index. 62 bits leave the sum far
        # from the 64 of `uniform`
        seed = options.seed if options.seed is not None else secrets.randbits(62)
        drafts = self.options.speculate and options.speculate and not request.embed
        self._requests[request.id] = []
        for index, matcher in enumerate(matchers):
            sequence = Sequence(
                number=self._arrivals,
                tokens=list(request.prompt),
                prompt_length=len(request.prompt),
                max_length=self._length(request),
                adapter=options.adapter,
                # these want every row of the prompt computed
                match_prefix=not request.embed and options.prompt_logprobs is None,
            )
            self._arrivals += 1
            state = SequenceState(
                request, index, seed, sequence, PromptLookup() if drafts else None, matcher
            )
            self._of[sequence] = state
            self._requests[request.id].append(state)
            self.scheduler.add(sequence)
            self._stats.prompt_tokens += sequence.prompt_length

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request, or one of its sequences, waiting or running. One that is not here, as
        after its end, is no error.
        """
        left = [
            one for one in self._requests.get(request_id, []) if index is None or one.index == index
        ]
        self._stats.cancelled += len(left)
        for state in left:
            self._leave(state)

    def fail(self, message: str) -> list[Event]:
        """After a step that raised: end everything in progress with an error, and trust nothing in
        the cache any more.
        """
        failed = list(self._of.values())
        for state in failed:
            self._leave(state)
        self.pool.reset()
        return [state.failure(message) for state in failed]

    def step(self) -> list[Event]:
        """Compute one step and return its events; none, at once, where there is nothing to do.

        If it raises, by an interruption too, call `fail` before anything else: blocks may be cached
        whose content was never computed.
        """
        for sequence, state in self._of.items():
            sequence.draft = state.propose_draft()
        # From here on blocks count as cached that the executor has yet to write
        works = self.scheduler.plan()
        if not works:
            return []
        states = [self._of[work.sequence] for work in works]
        chunks = [self._chunk(work, state) for work, state in zip(works, states, strict=True)]
        output = self.executor.run(chunks)
        self._stats.steps += 1
        self._stats.batch_tokens = sum(work.count for work in works)
        return self._take(list(zip(works, states, chunks, strict=True)), output)

    def _length(self, request: Request) -> int:
        """Tokens of a sequence at most, prompt and all."""
        new = 0 if request.embed else request.options.max_tokens
        return min(len(request.prompt) + new, self.executor.context_length)

    def _matcher(self, request: Request) -> Matcher | None:
        constraint = request.options.constraint
        if constraint is None:
            return None
        if self._constraints is None:
            raise RequestError(
                "this engine has no tokenizer to hold an output against a constraint: leave the"
                " constraint out"
            )
        return self._constraints.compile(constraint)

    def _leave(self, state: SequenceState) -> None:
        """Remove a sequence, waiting or running, and its request with the last one."""
        del self._of[state.sequence]
        self.scheduler.remove(state.sequence)
        siblings = self._requests[state.request.id]
        siblings.remove(state)
        if not siblings:
            del self._requests[state.request.id]

    def _chunk(self, work: Work, state: SequenceState) -> ScheduledChunk:
        sequence, request = work.sequence, state.request
        ids = (
            sequence.tokens[work.start : work.start + work.count - work.drafts]
            + sequence.draft[: work.drafts]
        )
        # After the last certain token and after each draft: a row verifies the draft that follows
        # it, and the last row samples
        rows = work.drafts + 1 if work.samples and not request.embed else 0
        if request.options.prompt_logprobs is not None and work.start < sequence.prompt_length:
            rows = len(ids)
        return ScheduledChunk(
            ids, work.start, sequence.blocks, rows, request.options.adapter, request.embed
        )

    def _take(
        self, done: list[tuple[Work, SequenceState, ScheduledChunk]], output: StepOutput
    ) -> list[Event]:
        """Turn what the executor computed into tokens and events."""
        self._take_prompts(done, output)
        draws = self._draw(done, output.logits)
        events: list[Event] = []
        for work, state, _ in done:
            if not work.samples:
                self.scheduler.complete(work, [])
            elif state.request.embed:
                self.scheduler.complete(work, [])
                self._leave(state)
                events.append(state.embedding())
            else:
                events.append(self._extend(work, state, list(islice(draws, work.drafts + 1))))
        return events

    def _take_prompts(
        self, done: list[tuple[Work, SequenceState, ScheduledChunk]], output: StepOutput
    ) -> None:
        """Hand each sequence what was computed of its prompt: hidden states and logits."""
        row = 0  # of the logits, which hold the chunks' rows one after the other
        for (work, state, chunk), pooled in zip(done, output.pooled, strict=True):
            if pooled is not None:
                state.add_pooled(pooled, work.start)
            if state.request.options.prompt_logprobs is not None:
                self._score_prompt(work, state, output.logits[row : row + chunk.rows])
            row += chunk.rows

    def _draw(
        self, done: list[tuple[Work, SequenceState, ScheduledChunk]], logits: "Logits"
    ) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """A token and its logprobs, where asked for, for each row that samples: work by work, in
        each the token after its last one, then one after each draft token.
        """
        rows: list[SamplingRow] = []
        indices: list[int] = []  # of these rows in the logits
        end = 0
        for work, state, chunk in done:
            end += chunk.rows
            if work.samples and not state.request.embed:
                rows += state.rows(work.drafts)
                # The last rows of the chunk; those before them score the prompt
                indices += range(end - work.drafts - 1, end)
        if len(indices) < len(logits):
            logits = logits[indices]
        tokens = choose(logits, rows)
        scored = log_probabilities(logits, tokens, [row.options.logprobs for row in rows])
        return zip(tokens, scored, strict=True)

    def _extend(
        self, work: Work, state: SequenceState, draws: list[tuple[int, TokenLogprobs | None]]
    ) -> Event:
        """Append the tokens that stand to their sequence, which leaves if they end it."""
        ids, finish = state.take([token for token, _ in draws], work.drafts)
        logprobs = [scored for _, scored in draws[: len(ids)] if scored is not None]
        self._stats.generated_tokens += len(ids)
        self._stats.proposed += work.drafts
        # Of these the last counts as drawn, those before it as accepted drafts
        self._stats.accepted += max(len(ids) - 1, 0)
        self.scheduler.complete(work, ids)
        event = state.event(ids, logprobs, finish)
        if finish is not None:
            self._leave(state)
        return event

    def _score_prompt(self, work: Work, state: SequenceState, logits: "Logits") -> None:
        """The log-probabilities of the prompt's tokens that follow the computed ones; after a
        preemption those scored before are left out.
        """
        scored_before = len(state.prompt_logprobs)
        start = max(
            work.start, scored_before
        )  # the row of position p says how likely token p + 1 is
        targets = state.request.prompt[start + 1 : work.start + len(logits) + 1]
        if targets:
            scored = logits[start - work.start :][: len(targets)]
            tops = [state.request.options.prompt_logprobs] * len(targets)
            state.prompt_logprobs += [
                score for score in log_probabilities(scored, targets, tops) if score is not None
            ]
