"""From a checked request to pieces of text: options for the engine, and each continuation's ids to
text with log-probabilities in place.

What chats and completions have in common. Not here: their shapes (chat.py, completions.py) and
bytes (streaming.py).
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from puna.api.error_response import ApiError
from puna.api.limits import Limits
from puna.api.protocol import GenerationRequest
from puna.api.service import ChosenModel, Service
from puna.errors import RequestError
from puna.inference.constrain import check
from puna.inference.detokenizer import Detokenizer
from puna.inference.request import Constraint, Event, GenerationOptions, Request, TokenLogprobs
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a continuation. offset: where its text begins, in characters of the
    continuation's.
    """

    score: TokenLogprobs
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new in a continuation. tokens: with log-probabilities, if they were asked for; those
    of the text that was given so far.
    """

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    finish: str | None = None


@dataclass(eq=False)
class Choice:
    """One continuation while it runs. index: its place in the answer. enough: set by whoever reads
    it and wants no more.
    """

    index: int
    tokenizer: Tokenizer
    stop: Sequence[str] = ()
    enough: bool = False
    cached: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    transcript: Detokenizer = field(init=False)

    def __post_init__(self) -> None:
        self.transcript = Detokenizer(self.tokenizer, self.stop)
        self._decoder, self._characters = StreamDecoder(self.tokenizer, skip_special=True), 0
        self._waiting: list[ScoredToken] = []

    @property
    def tokens(self) -> int:
        """How many were generated, an end token included."""
        return len(self.transcript.ids)

    def take(self, event: Event) -> Piece:
        """What an event adds."""
        self.cached, self.prompt_logprobs = (
            self.cached or event.cached,
            self.prompt_logprobs or event.prompt_logprobs,
        )
        before = self.tokens
        text = self.transcript.feed(event)
        # what ends a text is none of it
        texts = event.logprobs[:-1] if event.finish == "stop" else event.logprobs
        for score in texts[: self.tokens - before]:
            self._waiting.append(ScoredToken(score, self._characters))
            self._characters += len(self._decoder.feed(score.id))
        return Piece(text, self._given(), self.transcript.finish)

    def _given(self) -> tuple[ScoredToken, ...]:
        """The scored tokens whose text has begun in what was given. Those of a stop text never
        are.
        """
        length = len(self.transcript.text)
        given = 0
        while given < len(self._waiting) and self._waiting[given].offset < length:
            given += 1
        tokens, self._waiting = tuple(self._waiting[:given]), self._waiting[given:]
        return tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is continued, and the choices that continue it."""

    request: Request
    choices: tuple[Choice, ...]


def generation_options(
    body: GenerationRequest,
    model: ChosenModel,
    *,
    max_tokens: int,
    logprobs: int | None,
    constraint: Constraint | None,
) -> GenerationOptions:
    """A request's fields as the engine takes them; null and left out are the default."""
    asked = {
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "min_p": body.min_p,
        "typical_p": body.typical_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "logit_bias": {int(key): value for key, value in (body.logit_bias or {}).items()},
        "seed": body.seed,
        "stop": body.stops(),
        "stop_ids": tuple(body.stop_token_ids or ()),
        "min_tokens": body.min_tokens,
        "ignore_end": body.ignore_eos,
        "n": body.n,
        "prompt_logprobs": body.prompt_logprobs,
    }
    return GenerationOptions(
        max_tokens=max_tokens,
        logprobs=logprobs,
        constraint=constraint,
        adapter=model.adapter,
        **{name: value for name, value in asked.items() if value is not None},  # type: ignore[arg-type]
    )


async def checked(
    constraint: Constraint | None, body: GenerationRequest, limits: Limits
) -> Constraint | None:
    """The constraint, if it is one that can be enforced. Raises ApiError, a 400, before the engine
    has anything to do with it.
    """
    if constraint is None:
        return None
    try:
        if len(constraint.text) > limits.schema_characters:
            raise RequestError(
                f"what it asks for takes {len(constraint.text)} characters to say, more than"
                f" {limits.schema_characters}"
            )
        await asyncio.to_thread(check, constraint)
    except RequestError as error:
        raise _refusal(error, body.constrained_by) from error
    return constraint


def _refusal(error: RequestError, field_: str | None) -> ApiError:
    return ApiError(
        400, f"{field_}: {error}" if field_ else str(error), param=field_, code="invalid_value"
    )


def room_for(ids: Sequence[int], model: ChosenModel, service: Service, field_: str) -> int:
    """Tokens that may follow the prompt. Raises ApiError, a 400 with the numbers, if there is no
    room for one.
    """
    context, limit = service.capacity(model), service.limits.prompt_tokens
    most = min(context - 1, limit)
    if len(ids) > most:
        why = (
            f"this model's context of {context} must hold it and at least one more"
            if most < limit
            else "that is this server's limit"
        )
        raise ApiError(
            400,
            f"{field_}: the prompt has {len(ids)} tokens, but may have at most {most}: {why}."
            " Shorten it",
            param=field_,
            code="context_length_exceeded",
        )
    return context - len(ids)


def prompt_of(
    ids: Sequence[int], options: GenerationOptions, model: ChosenModel, first_index: int = 0
) -> Prompt:
    """A prompt with its n choices, numbered from `first_index`."""
    choices = tuple(
        Choice(first_index + index, model.tokenizer, options.stop) for index in range(options.n)
    )
    return Prompt(Request(uuid.uuid4().hex, tuple(ids), options, model.tokenizer.end_ids), choices)


async def engine_events(
    service: Service, model: ChosenModel, request: Request
) -> AsyncGenerator[Event]:
    """What the engine makes of a request. Leaving early ends the work. Raises ApiError if the
    engine failed at it.
    """
    events = service.client.generate(model.served.loaded.name, request)
    async with contextlib.aclosing(events):
        async for event in events:
            if event.finish == "error":
                raise ApiError(500, event.message, code="engine_error")
            yield event


async def continued(
    service: Service, model: ChosenModel, prompts: Sequence[Prompt], body: GenerationRequest
) -> AsyncGenerator[tuple[Choice, Piece]]:
    """The pieces of all choices as they come, until each has finished. Leaving early ends the work.

    Raises ApiError for what the engine refuses, EngineStopped.
    """
    sources = [_continued(service, model, prompt, body.constrained_by) for prompt in prompts]
    pieces = sources[0] if len(sources) == 1 else _merged(sources)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            yield piece


async def _continued(
    service: Service, model: ChosenModel, prompt: Prompt, constrained_by: str | None
) -> AsyncGenerator[tuple[Choice, Piece]]:
    client, request = service.client, prompt.request
    async with contextlib.aclosing(engine_events(service, model, request)) as events:
        try:
            async for event in events:
                choice = prompt.choices[event.index]
                if choice.transcript.finish is None and not choice.enough:
                    piece = choice.take(event)
                    yield choice, piece
                # the engine knows nothing of stop texts
                if choice.enough or choice.transcript.finish is not None:
                    client.cancel(request.id, event.index)
        except RequestError as error:
            raise _refusal(
                error, constrained_by if request.options.constraint is not None else None
            ) from error


async def _merged(
    sources: Sequence[AsyncGenerator[tuple[Choice, Piece]]],
) -> AsyncGenerator[tuple[Choice, Piece]]:
    """What all sources give, as it comes. The first exception of one is raised, and all are
    closed.
    """
    queue: asyncio.Queue[tuple[Choice, Piece] | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[tuple[Choice, Piece]]) -> None:
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
