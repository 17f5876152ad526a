"""One continuation of one request, from the first chunk of its prompt to its last token: what the
engine remembers of it.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from puna.errors import RequestError
from puna.inference.constrain import Matcher
from puna.inference.request import Event, Finish, Request, TokenLogprobs
from puna.inference.sampling import Row
from puna.inference.scheduler import Sequence
from puna.inference.speculation import PromptLookup


@dataclass(slots=True, eq=False)
class Continuation:
    """The one numbered `index` of a request's n, while it runs. It turns what the model says into
    tokens; it computes nothing itself.
    """

    request: Request
    index: int
    seed: int
    sequence: Sequence
    lookup: PromptLookup | None
    matcher: Matcher | None
    output: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    pooled: Tensor | None = None
    """Sum of the prompt's final hidden states so far, [D] float32, for a request that embeds."""
    fault: str = ""
    """Why it cannot go on: what its constraint came to cost too much, or allowed no more."""
    ends: frozenset[int] = field(init=False)
    """The ids that end the text."""

    def __post_init__(self) -> None:
        options = self.request.options
        self.ends = frozenset(options.stop_ids) | (
            frozenset() if options.ignore_end else self.request.ends
        )

    def guess(self) -> list[int]:
        """Tokens that may follow, if this is the moment for it and the constraint allows them."""
        sequence = self.sequence
        if self.lookup is None or sequence.computed != len(sequence.tokens) - 1:
            return []
        guess = self.lookup.propose(sequence.tokens, sequence.max_length - len(sequence.tokens) - 1)
        if self.matcher is None or not guess:
            return guess
        possible = 0
        try:
            while possible < len(guess) and self.matcher.accept(guess[possible]):
                possible += 1
            self.matcher.rewind(possible)
        except RequestError as error:
            self.fault = str(error)
        return guess[:possible]

    def rows(self, drafts: int) -> list[Row]:
        """How to draw the next token, and those after each of the first `drafts` guesses if they
        are right.
        """
        options, draft = self.request.options, self.sequence.draft
        outputs = [self.output, *([*self.output, *draft[:count]] for count in range(1, drafts + 1))]
        masks = self._masks(draft[:drafts])
        return [
            Row(
                options,
                self.index,
                self.request.prompt,
                output,
                self.seed,
                allowed,
                tuple(self.ends) if len(output) < options.min_tokens else (),
            )
            for output, allowed in zip(outputs, masks, strict=True)
        ]

    def _masks(self, draft: list[int]) -> list[Tensor | None]:
        """What may come next, and after each of the guesses."""
        if self.matcher is None or self.fault:
            return [None] * (len(draft) + 1)
        try:
            masks: list[Tensor | None] = [self.matcher.allowed()]
            for token in draft:
                accepted = self.matcher.accept(token)
                assert accepted, "a guess was checked against the constraint when it was made"
                masks.append(self.matcher.allowed())
            self.matcher.rewind(len(draft))
        except RequestError as error:
            self.fault = str(error)
            return [None] * (len(draft) + 1)
        return masks

    def take(self, drawn: list[int], drafts: int) -> tuple[list[int], Finish | None]:
        """The tokens that stand, of one drawn after the last token and one after each guess, and
        why they end the text, if they do.

        A draw stands while every guess before it equals its draw: so the text is what drawing one
        by one would have given. After a fault none does, and the continuation ends with an error.
        """
        right = 0
        while right < drafts and drawn[right] == self.sequence.draft[right]:
            right += 1
        if self.lookup is not None and drafts:
            self.lookup.learn(drafts, right, len(self.sequence.tokens) + right + 1)
        taken: list[int] = []
        for token in drawn[: right + 1]:
            self._follow(token)
            if self.fault:
                return [], "error"
            taken.append(token)
            self.output.append(token)
            if token in self.ends:
                return taken, "stop"
            if len(self.request.prompt) + len(self.output) >= self.sequence.max_length:
                return taken, "length"
        return taken, None

    def _follow(self, token: int) -> None:
        """Tell the constraint what was drawn."""
        if self.matcher is None or self.fault:
            return
        try:
            accepted = self.matcher.accept(token)
            assert accepted, "a draw is one of the tokens that the constraint allows"
        except RequestError as error:
            self.fault = str(error)

    def add_pooled(self, hidden: Tensor, start: int) -> None:
        """Take in the sum of some final hidden states; `start` 0 begins anew, as after a
        preemption.
        """
        self.pooled = hidden if start == 0 or self.pooled is None else self.pooled + hidden

    def event(self, ids: list[int], logprobs: list[TokenLogprobs], finish: Finish | None) -> Event:
        """What a step did, with what belongs into the first event if this is it."""
        first = len(self.output) == len(ids)
        return Event(
            self.request.id,
            self.index,
            ids=tuple(ids),
            logprobs=tuple(logprobs),
            prompt_logprobs=tuple(self.prompt_logprobs) if first else (),
            finish=finish,
            message=self.fault,
            cached=(self.sequence.cached or 0) if first else 0,
        )

    def embedding(self) -> Event:
        """The mean of the prompt's final hidden states, as the only event of a request that
        embeds.
        """
        assert self.pooled is not None
        mean = self.pooled / len(self.request.prompt)
        return Event(
            self.request.id, finish="stop", embedding=tuple(mean.to(torch.float32).tolist())
        )

    def failure(self, message: str) -> Event:
        """The last event of one that cannot go on."""
        return Event(self.request.id, self.index, finish="error", message=message)
