"""Requests in, events out: continuous batching. The engine knows ids, not text; the scheduler
integers, the executor tensors.

Each `step` computes some tokens of many sequences at once: one new token for each that is being
continued, guessed ones behind it, and chunks of prompts that wait. A sequence can join or leave
between any two steps. Nothing here is a thread or a process: whoever owns the engine calls `step`
while it is `busy`, and a cancelled request has left before the next one.
"""

import secrets

from torch import Tensor

from puna.errors import RequestError
from puna.inference.blocks import BlockPool
from puna.inference.constrain import ConstraintCompiler, Matcher
from puna.inference.continuation import Continuation
from puna.inference.engine_options import EngineOptions
from puna.inference.executor import Executor, Piece, StepOutput
from puna.inference.request import Event, Request
from puna.inference.sampling import Row, choose, log_probabilities
from puna.inference.scheduler import Scheduler, Sequence, Work
from puna.inference.speculation import PromptLookup
from puna.inference.statistics import Statistics


class Engine:
    """Continues many requests at once, fairly and within its memory.

    `constraints` compiles what outputs must match; without it a request with a constraint is
    refused.
    """

    def __init__(
        self,
        executor: Executor,
        options: EngineOptions | None = None,
        constraints: ConstraintCompiler | None = None,
    ) -> None:
        self.executor, self.options, self._constraints = (
            executor,
            options or EngineOptions(),
            constraints,
        )
        self.pool = BlockPool(executor.num_blocks, executor.block_size, self.options.share_prefixes)
        self.scheduler = Scheduler(
            self.pool,
            max_running=self.options.max_running,
            max_step_tokens=self.options.max_step_tokens,
        )
        self._of: dict[Sequence, Continuation] = {}
        self._requests: dict[str, list[Continuation]] = {}
        self._arrivals = 0
        self._statistics = Statistics(blocks=executor.num_blocks)

    @property
    def busy(self) -> bool:
        """Whether there is anything left to compute."""
        return bool(self._of)

    def statistics(self) -> Statistics:
        """How things stand; the object is the engine's own and changes with it."""
        now = self._statistics
        now.waiting, now.running = self.scheduler.waiting, self.scheduler.running
        now.used_blocks, now.preemptions = self.pool.used, self.scheduler.preemptions
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
        room = context if request.embed else context - 1
        if len(prompt) > room:
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
            known = ", ".join(sorted(self.executor.adapters)) or "none"
            raise RequestError(f"there is no adapter {options.adapter!r} here; loaded: {known}")
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
        matchers = [self._matcher(request) for _ in range(options.n)]
        seed = options.seed if options.seed is not None else secrets.randbits(62)
        guesses = self.options.speculate and options.speculate and not request.embed
        self._requests[request.id] = []
        for index, matcher in enumerate(matchers):
            sequence = Sequence(
                number=self._arrivals,
                tokens=list(request.prompt),
                prompt_length=len(request.prompt),
                max_length=self._length(request),
                root=options.adapter,
                # these want every row of the prompt computed
                share=not request.embed and options.prompt_logprobs is None,
            )
            self._arrivals += 1
            continuation = Continuation(
                request, index, seed, sequence, PromptLookup() if guesses else None, matcher
            )
            self._of[sequence] = continuation
            self._requests[request.id].append(continuation)
            self.scheduler.add(sequence)
            self._statistics.prompt_tokens += sequence.prompt_length

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or one of its continuations, wherever it stands. One that is unknown,
        as after its end, is no error.
        """
        left = [
            one for one in self._requests.get(request_id, []) if index is None or one.index == index
        ]
        self._statistics.cancelled += len(left)
        for continuation in left:
            self._leave(continuation)

    def fail(self, message: str) -> list[Event]:
        """After a step that raised: end everything in progress with an error, and trust nothing in
        the cache any more.
        """
        failed = list(self._of.values())
        for continuation in failed:
            self._leave(continuation)
        self.pool.forget()
        return [continuation.failure(message) for continuation in failed]

    def step(self) -> list[Event]:
        """Compute one step and say what came of it; at once and empty where there is nothing to do.

        If it raises, by an interruption too, call `fail` before anything else: blocks may be known
        whose content was never computed.
        """
        for sequence, continuation in self._of.items():
            sequence.draft = continuation.guess()
        works = self.scheduler.plan()
        if not works:
            return []
        continuations = [self._of[work.sequence] for work in works]
        pieces = [
            self._piece(work, continuation)
            for work, continuation in zip(works, continuations, strict=True)
        ]
        output = self.executor.run(pieces)
        self._statistics.steps += 1
        self._statistics.batch_tokens = sum(work.count for work in works)
        return self._take(list(zip(works, continuations, pieces, strict=True)), output)

    def _length(self, request: Request) -> int:
        """Tokens of a continuation at most, prompt and all."""
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

    def _leave(self, continuation: Continuation) -> None:
        """Take a continuation out, wherever it stands, and its request with the last one."""
        del self._of[continuation.sequence]
        self.scheduler.remove(continuation.sequence)
        siblings = self._requests[continuation.request.id]
        siblings.remove(continuation)
        if not siblings:
            del self._requests[continuation.request.id]

    def _piece(self, work: Work, continuation: Continuation) -> Piece:
        sequence, request = work.sequence, continuation.request
        ids = (
            sequence.tokens[work.start : work.start + work.count - work.drafts]
            + sequence.draft[: work.drafts]
        )
        rows = work.drafts + 1 if work.samples and not request.embed else 0
        if request.options.prompt_logprobs is not None and work.start < sequence.prompt_length:
            rows = len(ids)
        return Piece(ids, work.start, sequence.blocks, rows, request.options.adapter, request.embed)

    def _take(
        self, done: list[tuple[Work, Continuation, Piece]], output: StepOutput
    ) -> list[Event]:
        """From what the executor computed to tokens and events."""
        events: list[Event] = []
        rows: list[Row] = []
        places: list[int] = []  # of these rows in the logits
        place = 0
        for (work, continuation, piece), pooled in zip(done, output.pooled, strict=True):
            if pooled is not None:
                continuation.add_pooled(pooled, work.start)
            if continuation.request.options.prompt_logprobs is not None:
                self._score_prompt(work, continuation, output.logits[place : place + piece.rows])
            place += piece.rows
            if work.samples and piece.rows:
                rows += continuation.rows(work.drafts)
                places += range(place - work.drafts - 1, place)
        logits = output.logits if len(places) == len(output.logits) else output.logits[places]
        drawn = choose(logits, rows)
        logprobs = log_probabilities(logits, drawn, [row.options.logprobs for row in rows])
        first = 0
        for work, continuation, _ in done:
            if not work.samples or continuation.request.embed:
                self.scheduler.complete(work, [])
                if work.samples:
                    self._leave(continuation)
                    events.append(continuation.embedding())
            else:
                ids, finish = continuation.take(drawn[first : first + work.drafts + 1], work.drafts)
                scores = [
                    score for score in logprobs[first : first + len(ids)] if score is not None
                ]
                first += work.drafts + 1
                self._statistics.generated_tokens += len(ids)
                self._statistics.proposed += work.drafts
                self._statistics.accepted += max(len(ids) - 1, 0)
                self.scheduler.complete(work, ids)
                events.append(continuation.event(ids, scores, finish))
                if finish is not None:
                    self._leave(continuation)
        return events

    def _score_prompt(self, work: Work, continuation: Continuation, logits: Tensor) -> None:
        """The log-probabilities of the prompt's tokens that follow the computed ones; after a
        preemption those known are left out.
        """
        known = len(continuation.prompt_logprobs)
        start = max(work.start, known)  # the row of position p says how likely token p + 1 is
        targets = continuation.request.prompt[start + 1 : work.start + len(logits) + 1]
        if targets:
            scored = logits[start - work.start :][: len(targets)]
            tops = [continuation.request.options.prompt_logprobs] * len(targets)
            continuation.prompt_logprobs += [
                score for score in log_probabilities(scored, targets, tops) if score is not None
            ]
