"""Log-probabilities in OpenAI's two shapes: a list of objects for chats, four lists of equal length
for completions.

A logarithm below -9999 is given as -9999, as OpenAI does, since JSON knows no minus infinity.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from puna.api.generation import ScoredToken
from puna.api.responses import CompletionLogprobs, TokenLogprob, TopLogprob
from puna.inference.request import TokenLogprobs
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer

_LEAST = -9999.0


def token_logprob(tokenizer: Tokenizer, score: TokenLogprobs) -> TokenLogprob:
    """A token with the likeliest at its place."""
    top = [_top_logprob(tokenizer, id_, logprob) for id_, logprob in score.top]
    chosen = _top_logprob(tokenizer, score.id, score.logprob)
    return TokenLogprob(
        token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=top
    )


def prompt_logprobs(
    tokenizer: Tokenizer, scores: Iterable[TokenLogprobs], alternatives: int
) -> list[TokenLogprob | None]:
    """Those of a prompt; nothing comes before its first token, so that has none."""
    return [
        None,
        *(
            token_logprob(tokenizer, replace(score, top=score.top[:alternatives]))
            for score in scores
        ),
    ]


def completion_logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[ScoredToken],
    offset: int = 0,
    echoed: "EchoedPrompt | None" = None,
) -> CompletionLogprobs:
    """Those of a piece of text. offset: characters of the answer before the continuation. echoed:
    the prompt, if it comes first.
    """
    lists = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for id_, score, place in echoed.scored(tokenizer) if echoed is not None else ():
        _append(lists, tokenizer, id_, score, place)
    for token in tokens:
        _append(lists, tokenizer, token.score.id, token.score, offset + token.offset)
    return lists


class EchoedPrompt:
    """A prompt that is part of the answer. ids: all of it. opened: the first id was put there by us
    and is no part of the text.
    """

    def __init__(
        self,
        ids: Sequence[int],
        scores: Sequence[TokenLogprobs],
        alternatives: int,
        *,
        opened: bool,
    ) -> None:
        self._ids, self._opened = ids, opened
        self._scores = [replace(score, top=score.top[:alternatives]) for score in scores]

    def scored(self, tokenizer: Tokenizer) -> list[tuple[int, TokenLogprobs | None, int]]:
        """Each id of the text with its score, if it has one, and the place of its text."""
        decoder, characters = StreamDecoder(tokenizer), 0
        found = []
        for id_, score in list(zip(self._ids, (None, *self._scores), strict=True))[
            int(self._opened) :
        ]:
            found.append((id_, score, characters))
            characters += len(decoder.feed(id_))
        return found


def _append(
    lists: CompletionLogprobs,
    tokenizer: Tokenizer,
    id_: int,
    score: TokenLogprobs | None,
    offset: int,
) -> None:
    lists.tokens.append(tokenizer.decode([id_]))
    lists.text_offset.append(offset)
    lists.token_logprobs.append(None if score is None else max(score.logprob, _LEAST))
    if score is None:
        lists.top_logprobs.append(None)
        return
    top: dict[str, float] = {}
    for other, logprob in (*score.top, (score.id, score.logprob)):
        text = tokenizer.decode([other])
        top[text] = max(top.get(text, _LEAST), logprob)
    lists.top_logprobs.append(top)


def _top_logprob(tokenizer: Tokenizer, id_: int, logprob: float) -> TopLogprob:
    written = tokenizer.token_bytes(id_)
    return TopLogprob(
        token=tokenizer.decode([id_]), logprob=max(logprob, _LEAST), bytes=list(written) or None
    )
