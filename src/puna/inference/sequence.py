"""State of one sequence, from the first chunk of its prompt to its last token."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from puna.errors import RequestError
from puna.inference.constrain import Matcher
from puna.inference.logits_processors import SamplingRow
from puna.inference.request import Event, Finish, Request, TokenLogprobs
from puna.inference.scheduler import Sequence
from puna.inference.speculation import PromptLookup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from puna.inference.executor import Logits


@dataclass(slots=True, eq=False)
class SequenceState:
    """The sequence numbered `index` of a request's n, while it runs: request, output, constraint
    and draft. It turns draws into tokens; it computes nothing itself.

    `scheduler.Sequence` is the same sequence as integers: its ids, its blocks and how far it is
    computed. Each state holds one, and the scheduler alone changes that.
    """

    request: Request
    index: int
    seed: int
    sequence: Sequence
    lookup: PromptLookup | None
    matcher: Matcher | None
    output: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    pooled: Any = None
    """Sum of the prompt's final hidden states so far, [D] float32 as the executor gave it, for a
    request that embeds.
    """
    fault: str = ""
    """Reason that it cannot go on: its constraint cost too much, or allowed no token."""
    ends: frozenset[int] = field(init=False)
    """The ids that end the text."""

    def __post_init__(self) -> None:
        options = self.request.options
        self.ends = frozenset(options.stop_ids) | (
            frozenset() if options.ignore_end else self.request.ends
        )

    def propose_draft(self) -> list[int]:
        """Draft tokens, cut where the constraint allows them no more; none before it decodes."""
        sequence = self.sequence
        if self.lookup is None or sequence.computed != len(sequence.tokens) - 1:
            return []
        draft = self.lookup.propose(sequence.tokens, sequence.max_length - len(sequence.tokens) - 1)
        if self.matcher is None or not draft:
            return draft
        possible = 0
        try:
            while possible < len(draft) and self.matcher.accept(draft[possible]):
                possible += 1
            self.matcher.rewind(possible)
        except RequestError as error:
            self.fault = str(error)
        return draft[:possible]

    def rows(self, drafts: int) -> list[SamplingRow]:
        """Sampling rows of the next token and of those after each of the first `drafts` draft
        tokens, as if these are accepted.
        """
        options, draft = self.request.options, self.sequence.draft
        outputs = [self.output, *([*self.output, *draft[:count]] for count in range(1, drafts + 1))]
        masks = self._masks(draft[:drafts])
        return [
            SamplingRow(
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

    def _masks(self, draft: list[int]) -> "list[NDArray[np.bool_] | None]":
        """Token masks of the next token, and of those after each draft token."""
        if self.matcher is None or self.fault:
            return [None] * (len(draft) + 1)
        try:
            masks: list[NDArray[np.bool_] | None] = [self.matcher.allowed()]
            for token in draft:
                accepted = self.matcher.accept(token)
                assert accepted, "a draft was checked against the constraint when it was proposed"
                masks.append(self.matcher.allowed())
            self.matcher.rewind(len(draft))
        except RequestError as error:
            self.fault = str(error)
            return [None] * (len(draft) + 1)
        return masks

    def take(self, drawn: list[int], drafts: int) -> tuple[list[int], Finish | None]:
        """The tokens that stand, of one drawn after the last token and one after each draft token,
        and the reason they end the text, if they do.

        A draw stands while every draft token before it equals its draw: so the text is what drawing
        one by one would have given. After a fault none does, and the sequence ends with an error.
        """
        # drawn[i] was drawn at the position of draft i, given all drafts before it
        accepted = 0
        while accepted < drafts and drawn[accepted] == self.sequence.draft[accepted]:
            accepted += 1
        if self.lookup is not None and drafts:
            # the text's length with the token after the accepted drafts
            self.lookup.learn(drafts, accepted, len(self.sequence.tokens) + accepted + 1)
        taken: list[int] = []
        for token in drawn[: accepted + 1]:
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
        """Advance the constraint by a drawn token."""
        if self.matcher is None or self.fault:
            return
        try:
            allowed = self.matcher.accept(token)
            assert allowed, "a draw is one of the tokens that the constraint allows"
        except RequestError as error:
            self.fault = str(error)

    def add_pooled(self, hidden: "Logits", start: int) -> None:
        """Take in the sum of some final hidden states; `start` 0 begins anew, as after a
        preemption.
        """
        self.pooled = hidden if start == 0 or self.pooled is None else self.pooled + hidden

    def event(self, ids: list[int], logprobs: list[TokenLogprobs], finish: Finish | None) -> Event:
        """The event of a step, with the fields of the first event if this is it."""
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
        return Event(self.request.id, finish="stop", embedding=tuple(mean.tolist()))

    def failure(self, message: str) -> Event:
        """The last event of one that cannot go on."""
        return Event(self.request.id, self.index, finish="error", message=message)
