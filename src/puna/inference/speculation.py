"""Speculative decoding by n-gram prompt lookup: draft tokens taken from the sequence's own text. No
second model, no tensors.

The engine computes the draft tokens together with the last token and keeps those that the model
would have drawn anyway, so a rejected draft costs time and never changes the text. It pays where
texts repeat themselves: code, quotations, extraction, loops of a small model.
"""

from collections.abc import Sequence

MOST = 16  # draft tokens at once, at most
SIZES = (4, 3, 2)  # tokens that must have stood together before, the longer match first
PATIENCE = 3  # drafts without an accepted token before a rest
REST = 16  # tokens of the first rest; each further one is twice as long


class PromptLookup:
    """Drafts the tokens that followed the latest n-gram where it last occurred in the sequence.

    A draft doubles when all of it was accepted and halves when none was; after three without an
    accepted token it rests for 16 tokens, then 32, 64, ..., so that on a text without repetition
    the cost fades. One instance serves one sequence.

    Source: Saxena 2023, Prompt Lookup Decoding; Leviathan et al. 2023, Fast Inference from
    Transformers via Speculative Decoding, for the verification.
    """

    def __init__(self) -> None:
        # n-gram -> index of the token after its latest occurrence
        self._next: dict[tuple[int, ...], int] = {}
        self._indexed = 0  # tokens before this one are in `_next` as what follows
        self._size, self._failures, self._rest, self._resting_until = 4, 0, REST, 0

    def propose(self, tokens: Sequence[int], limit: int = MOST) -> list[int]:
        """Up to `limit` tokens that may follow `tokens`; often none. `tokens` only ever grows from
        call to call.
        """
        length = len(tokens)
        if length < self._resting_until:
            return []
        for end in range(max(self._indexed, 1), length):
            for size in SIZES:
                if size <= end:
                    self._next[tuple(tokens[end - size : end])] = end
        self._indexed = length
        size = min(self._size, limit)
        for context in SIZES:
            follows = (
                self._next.get(tuple(tokens[length - context :])) if context <= length else None
            )
            if follows is not None:
                draft: list[int] = []
                # a copy may run into itself: "ababab" goes on as it was
                for index in range(follows, follows + size):
                    draft.append(tokens[index] if index < length else draft[index - length])
                return draft
        return []

    def learn(self, proposed: int, accepted: int, length: int) -> None:
        """Adapt to how many of `proposed` tokens were accepted; length: tokens of the sequence."""
        if accepted:
            self._failures, self._rest = 0, REST
            self._size = min(2 * self._size, MOST) if accepted == proposed else max(accepted, 1)
            return
        self._failures += 1
        self._size = max(self._size // 2, 1)
        if self._failures >= PATIENCE:
            self._resting_until, self._rest = length + self._rest, 2 * self._rest
