"""From a checked request to text as it comes: options for the engine, and the events of each
sequence as deltas of text with log-probabilities.

Common to chats and completions. Not here: words and calls in a chat (chat_generation.py), their
shapes (chat_completions.py, completions.py) and bytes (streaming.py).
"""

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from puna.api.error_response import ApiError
from puna.api.limits import Limits
from puna.api.protocol import GenerationRequest
from puna.api.responses import CompletionUsage, PromptTokensDetails
from puna.api.service import ChosenModel, Service
from puna.errors import RequestError
from puna.inference.constrain import check
from puna.inference.detokenizer import Detokenizer
from puna.inference.request import Constraint, Event, GenerationOptions, Request, TokenLogprobs
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextToken:
    """A generated token. offset: the index of its first character in the sequence's text."""

    logprobs: TokenLogprobs
    offset: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of a sequence. tokens: with log-probabilities, if they were asked for; those whose
    text has begun. finish: the engine's reason, with the last one.
    """

    text: str
    tokens: Sequence[TextToken] = ()
    finish: str | None = None


class GeneratedSequence:
    """One of the n sequences of a prompt, while it is generated.

    index: its number in the answer. tokens: those that were given in deltas. enough: set by a
    reader who wants no more. cached: tokens of its prompt in the prefix cache.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        opens_text: bool = False,
    ) -> None:
        self.index = index
        self.detokenizer = Detokenizer(tokenizer, stop, opens_text=opens_text)
        self.tokens: list[TextToken] = []
        self.enough = False
        self.cached = 0

    def take(self, event: Event) -> TextDelta:
        """The delta that an event makes."""
        self.cached = self.cached or event.cached
        text = self.detokenizer.feed(event)
        tokens = self._new_tokens()
        self.tokens += tokens
        return TextDelta(text, tokens, self.detokenizer.finish)

    def _new_tokens(self) -> list[TextToken]:
        """The tokens whose text has begun in what was given since. Those of a stop text never are,
        nor is an end token, which has no text and so no offset.
        """
        made, given = self.detokenizer, len(self.tokens)
        return [
            TextToken(logprobs, offset)
            for logprobs, offset in zip(made.logprobs[given:], made.offsets[given:], strict=False)
            if offset < len(made.text)
        ]


S = TypeVar("S", bound=GeneratedSequence)


@dataclass(frozen=True, slots=True)
class Prompt(Generic[S]):
    """A request to the engine, and the sequences that continue its prompt."""

    request: Request
    sequences: Sequence[S]


def most_tokens(left: int, limits: Limits, *asked: int | None, default: int | None = None) -> int:
    """Tokens of an answer at most: the least of what is left of the context, the server's limit and
    the numbers asked for; null and -1 ask for none. default: the number where none is asked for.
    """
    numbers = [most for most in asked if most is not None and most >= 0]
    if not numbers and default is not None:
        numbers = [default]
    return min(left, limits.output_tokens, *numbers)


def generation_options(
    body: GenerationRequest,
    model: ChosenModel,
    *,
    max_tokens: int,
    logprobs: int | None,
    constraint: Constraint | None,
) -> GenerationOptions:
    """A request's fields as the engine takes them; null and left out are the model's default, or
    else the engine's.

    Stop texts and ids do not apply to JSON that the answer is held to: it ends where it is whole,
    and what is cut before is no JSON.
    """
    is_json = constraint is not None and constraint.kind == "json_schema"
    # the engine's rule asks for a positive share, of which any keeps the likeliest token
    share = body.top_p if body.top_p is None else max(body.top_p, sys.float_info.min)
    asked = {
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": share,
        "min_p": body.min_p,
        "typical_p": body.typical_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "logit_bias": {int(key): value for key, value in (body.logit_bias or {}).items()},
        "seed": None if body.seed == -1 else body.seed,
        "stop": () if is_json else body.stops(),
        "stop_ids": () if is_json else tuple(body.stop_token_ids or ()),
        "min_tokens": body.min_tokens,
        "ignore_end": body.ignore_eos,
        "n": body.n,
        "prompt_logprobs": body.prompt_logprobs,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    options: dict[str, Any] = {**model.defaults, **given, "max_tokens": max_tokens}
    if options.get("top_k") in (-1, 0):  # all, which a request may ask for against a default
        del options["top_k"]
    return GenerationOptions(
        logprobs=logprobs, constraint=constraint, adapter=model.adapter, **options
    )


async def checked_constraint(body: GenerationRequest, limits: Limits) -> Constraint | None:
    """The constraint of the answer, if there is one. Raises ApiError, a 400, where it cannot be
    enforced, before the engine has anything to do with it.
    """
    try:
        constraint = body.constraint()
        if constraint is None:
            return None
        if len(constraint.text) > limits.schema_characters:
            raise RequestError(
                f"what it asks for takes {len(constraint.text)} characters to say, more than"
                f" {limits.schema_characters}"
            )
        await asyncio.to_thread(check, constraint)
    except RequestError as error:
        raise _rejection(error, body.constrained_by) from error
    return constraint


def _rejection(error: RequestError, field_: str | None) -> ApiError:
    return ApiError(
        400, f"{field_}: {error}" if field_ else str(error), param=field_, code="invalid_value"
    )


def engine_request(ids: Sequence[int], options: GenerationOptions, model: ChosenModel) -> Request:
    """The engine's request for these ids, under an id of its own."""
    return Request(uuid.uuid4().hex, tuple(ids), options, model.tokenizer.end_ids)


async def engine_events(
    service: Service, model: ChosenModel, request: Request
) -> AsyncGenerator[Event]:
    """The events of a request. Leaving early ends the work. Raises ApiError if the engine failed at
    it.
    """
    events = service.client.generate(model.served.loaded.name, request)
    async with contextlib.aclosing(events):
        async for event in events:
            if event.finish == "error":
                raise ApiError(500, event.message, code="engine_error")
            yield event


async def generated(
    service: Service, model: ChosenModel, prompts: Sequence[Prompt[S]], body: GenerationRequest
) -> AsyncGenerator[tuple[S, TextDelta]]:
    """The deltas of all sequences as they come, until each has finished. Leaving early ends the
    work.

    Raises ApiError for what the engine rejects, EngineStopped.
    """
    sources = [_generated(service, model, prompt, body.constrained_by) for prompt in prompts]
    deltas = sources[0] if len(sources) == 1 else _merged(sources)
    async with contextlib.aclosing(deltas):
        async for delta in deltas:
            yield delta


async def _generated(
    service: Service, model: ChosenModel, prompt: Prompt[S], constrained_by: str | None
) -> AsyncGenerator[tuple[S, TextDelta]]:
    client, request = service.client, prompt.request
    async with contextlib.aclosing(engine_events(service, model, request)) as events:
        try:
            async for event in events:
                sequence = prompt.sequences[event.index]
                if sequence.detokenizer.finish is None and not sequence.enough:
                    delta = sequence.take(event)
                    yield sequence, delta
                # the engine knows nothing of stop texts
                if sequence.enough or sequence.detokenizer.finish is not None:
                    client.cancel(request.id, event.index)
        except RequestError as error:
            field = constrained_by if request.options.constraint is not None else None
            raise _rejection(error, field) from error


async def _merged(
    sources: Sequence[AsyncGenerator[tuple[S, TextDelta]]],
) -> AsyncGenerator[tuple[S, TextDelta]]:
    """The deltas of all sources, as they come. The first exception of one is raised, and all are
    closed.
    """
    queue: asyncio.Queue[tuple[S, TextDelta] | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[tuple[S, TextDelta]]) -> None:
        try:
            async with contextlib.aclosing(source):
                async for item in source:
                    queue.put_nowait(item)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    left = len(tasks)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def usage_of(prompts: Sequence[Prompt[S]], *, completed: bool = True) -> CompletionUsage:
    """The tokens of prompts and of their sequences. A prompt counts once, as does the part of it
    that was cached when its first sequence began.

    completed: false where none of the generated tokens is given.
    """
    read = sum(len(prompt.request.prompt) for prompt in prompts)
    generated_ids = [
        sequence.detokenizer.ids for prompt in prompts for sequence in prompt.sequences
    ]
    written = sum(map(len, generated_ids)) if completed else 0  # with their end tokens
    return CompletionUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(prompt.sequences[0].cached for prompt in prompts)
        ),
    )
