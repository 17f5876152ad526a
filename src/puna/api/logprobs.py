"""Log-probabilities in OpenAI's two shapes: a list of objects for chats, four lists of equal length
for completions.

A logarithm below -9999 is given as -9999, as OpenAI does, since JSON knows no minus infinity.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from puna.api.generation import TextToken
from puna.api.responses import CompletionLogprobs, TokenLogprob, TopLogprob
from puna.inference.request import TokenLogprobs
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer

_LEAST = -9999.0


def token_logprob(tokenizer: Tokenizer, token: TokenLogprobs) -> TokenLogprob:
    """A token with the likeliest at its position."""
    top = [_top_logprob(tokenizer, id_, logprob) for id_, logprob in token.top]
    chosen = _top_logprob(tokenizer, token.id, token.logprob)
    return TokenLogprob(
        token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=top
    )


def prompt_logprobs(
    tokenizer: Tokenizer, logprobs: Iterable[TokenLogprobs], alternatives: int
) -> list[TokenLogprob | None]:
    """Those of a prompt; the first token has none, since nothing comes before it."""
    return [
        None,
        *(
            token_logprob(tokenizer, replace(token, top=token.top[:alternatives]))
            for token in logprobs
        ),
    ]


def completion_logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[TextToken],
    offset: int = 0,
    echoed: "EchoedPrompt | None" = None,
) -> CompletionLogprobs:
    """Those of a piece of text. offset: characters of the answer before the generated text. echoed:
    the prompt, if it comes first.
    """
    lists = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for id_, logprobs, index in echoed.tokens(tokenizer) if echoed is not None else ():
        _append(lists, tokenizer, id_, logprobs, index)
    for token in tokens:
        _append(lists, tokenizer, token.logprobs.id, token.logprobs, offset + token.offset)
    return lists


class EchoedPrompt:
    """A prompt that is part of the answer. ids: all of it. opened: the first id was put there by us
    and is no part of the text.
    """

    def __init__(
        self,
        ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs],
        alternatives: int,
        *,
        opened: bool,
    ) -> None:
        self._ids, self._opened = ids, opened
        self._logprobs = [replace(token, top=token.top[:alternatives]) for token in logprobs]

    def tokens(self, tokenizer: Tokenizer) -> list[tuple[int, TokenLogprobs | None, int]]:
        """Each id of the text with its logprobs, if it has any, and the index of its first
        character.
        """
        decoder, characters = StreamDecoder(tokenizer), 0
        found = []
        for id_, token in list(zip(self._ids, (None, *self._logprobs), strict=True))[
            int(self._opened) :
        ]:
            found.append((id_, token, characters))
            characters += len(decoder.feed(id_))
        return found


def _append(
    lists: CompletionLogprobs,
    tokenizer: Tokenizer,
    id_: int,
    token: TokenLogprobs | None,
    offset: int,
) -> None:
    lists.tokens.append(tokenizer.decode([id_], inside_text=True))
    lists.text_offset.append(offset)
    lists.token_logprobs.append(None if token is None else max(token.logprob, _LEAST))
    if token is None:
        lists.top_logprobs.append(None)
        return
    top: dict[str, float] = {}
    for other, logprob in (*token.top, (token.id, token.logprob)):
        text = tokenizer.decode([other], inside_text=True)
        top[text] = max(top.get(text, _LEAST), logprob)
    lists.top_logprobs.append(top)


def _top_logprob(tokenizer: Tokenizer, id_: int, logprob: float) -> TopLogprob:
    written = tokenizer.token_bytes(id_)
    return TopLogprob(
        token=tokenizer.decode([id_], inside_text=True),
        logprob=max(logprob, _LEAST),
        bytes=list(written) or None,
    )
