"""/v1/chat/completions: a conversation in, the assistant's answers out, whole or bit by bit.

Both ways read the same parts of an answer (tool_calls.py), so a streamed answer joins to the whole
one.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.error_response import ApiError
from puna.api.generation import (
    Choice,
    Piece,
    Prompt,
    ScoredToken,
    checked,
    continued,
    generation_options,
    prompt_of,
    room_for,
)
from puna.api.json_body import JsonBody
from puna.api.messages import Message, Tool, as_turns
from puna.api.openapi import gives, takes
from puna.api.protocol import ChatRequest
from puna.api.responses import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FinishReason,
    FunctionCall,
    FunctionCallDelta,
    ToolCall,
    ToolCallDelta,
)
from puna.api.scores import prompt_logprobs, token_logprob
from puna.api.service import ChosenModel, Service
from puna.api.streaming import EventStream, WholeAnswer
from puna.api.tool_calls import (
    Arguments,
    CallBegun,
    CallReader,
    Part,
    PossibleCalls,
    Reader,
    Words,
    WordsReader,
)
from puna.api.tool_schema import answer_constraint
from puna.api.usage import usage_of
from puna.errors import TokenizerError
from puna.tokenizer.chat_template import encode_chat


def routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        openapi_extra=takes(ChatRequest),
        responses=gives(ChatCompletion, ChatCompletionChunk),
    )
    async def create_chat_completion(
        request: Request, body: Annotated[ChatRequest, Depends(JsonBody(ChatRequest, service))]
    ) -> Response:
        """Answer a conversation."""
        chat = Chat(service, service.model(body.model), body, request)
        return (
            EventStream(chat.streamed(), service.limits.request_seconds)
            if body.stream
            else WholeAnswer(chat.whole())
        )

    return router


async def chat_ids(
    model: ChosenModel, messages: Sequence[Message], tools: Sequence[Tool], *, answer: bool
) -> list[int]:
    """A conversation as ids, `answer`: up to where the answer begins. Raises ApiError for a model
    whose vocabulary holds no chats.
    """
    try:
        laid_out = await asyncio.to_thread(
            encode_chat,
            model.tokenizer,
            as_turns(messages),
            tools=[tool.described() for tool in tools],
            add_generation_prompt=answer,
        )
    except TokenizerError as error:
        raise ApiError(400, f"messages: {error}", param="messages", code="invalid_value") from error
    return laid_out.ids


@dataclass
class _Said:
    """What one answer has said so far."""

    reader: Reader
    words: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish: FinishReason | None = None

    def take(self, parts: Sequence[Part]) -> None:
        for part in parts:
            match part:
                case Words(text):
                    self.words.append(text)
                case CallBegun(_, id_, name):
                    self.calls.append(
                        ToolCall(
                            id=id_, type="function", function=FunctionCall(name=name, arguments="")
                        )
                    )
                case Arguments(index, text):
                    self.calls[index].function.arguments += text


class Chat:
    """One request being answered."""

    def __init__(
        self, service: Service, model: ChosenModel, body: ChatRequest, request: Request
    ) -> None:
        self._service, self._model, self._body, self._request = service, model, body, request
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self) -> ChatCompletion:
        """All answers, complete."""
        async with self._service.admit(self._request, self._body.n or 1):
            prompt = await self._prompt()
            said = {choice: _Said(self._reader()) for choice in prompt.choices}
            async with contextlib.aclosing(self._parts(prompt, said)) as parts:
                async for choice, piece, new in parts:
                    said[choice].take(new)
                    said[choice].tokens += piece.tokens
            return ChatCompletion(
                id=self._id,
                object="chat.completion",
                created=self._created,
                model=self._model.name,
                choices=[self._choice(choice, said[choice]) for choice in prompt.choices],
                usage=usage_of([prompt]),
            )

    async def streamed(self) -> AsyncGenerator[ChatCompletionChunk]:
        """All answers, bit by bit: for each an event that says whose turn it is, its parts, and an
        event that says why it ended.
        """
        async with self._service.admit(self._request, self._body.n or 1):
            prompt = await self._prompt()
            said = {choice: _Said(self._reader()) for choice in prompt.choices}
            begun: set[Choice] = set()
            async with contextlib.aclosing(self._parts(prompt, said)) as parts:
                async for choice, piece, new in parts:
                    if choice not in begun:
                        begun.add(choice)
                        yield self._first_chunk(choice)
                    deltas = [_delta(part) for part in new] or (
                        [ChatDelta()] if piece.tokens else []
                    )
                    for place, delta in enumerate(deltas):
                        yield self._chunk(choice, delta, piece.tokens if place == 0 else ())
                    if said[choice].finish is not None:
                        yield self._chunk(choice, ChatDelta(), (), said[choice].finish)
            if self._with_usage:
                last = self._event([])
                last.usage = usage_of([prompt])
                yield last

    async def _prompt(self) -> Prompt:
        body, model = self._body, self._model
        ids = await chat_ids(model, body.messages, body.callable_tools, answer=True)
        room = room_for(ids, model, self._service, "messages")
        asked = [most for most in (body.max_completion_tokens, body.max_tokens) if most is not None]
        wanted = min(asked, default=self._service.limits.output_tokens)
        constraint = await checked(answer_constraint(body), body, self._service.limits)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        options = generation_options(
            body, model, max_tokens=min(wanted, room), logprobs=logprobs, constraint=constraint
        )
        return prompt_of(ids, options, model)

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and bool(options.include_usage)

    def _reader(self) -> Reader:
        if not self._body.callable_tools:
            return WordsReader()
        if self._body.must_call:
            return CallReader()
        names = {tool.function.name for tool in self._body.callable_tools}
        return PossibleCalls(names, single=self._body.parallel_tool_calls is False)

    async def _parts(
        self, prompt: Prompt, said: dict[Choice, _Said]
    ) -> AsyncGenerator[tuple[Choice, Piece, list[Part]]]:
        """Pieces with the parts that they make certain; the last of a choice comes after its
        `finish` was noted.
        """
        pieces = continued(self._service, self._model, [prompt], self._body)
        async with contextlib.aclosing(pieces):
            async for choice, piece in pieces:
                one = said[choice]
                new = one.reader.feed(piece.text)
                choice.enough = one.reader.enough
                if piece.finish is not None or choice.enough:
                    new += one.reader.end()
                    one.finish = _reason(one.reader, piece)
                yield choice, piece, new

    def _choice(self, choice: Choice, said: _Said) -> ChatChoice:
        words = "".join(said.words)
        message = ChatMessage(
            role="assistant", content=None if said.calls and not words else words, refusal=None
        )
        if said.calls:
            message.tool_calls = said.calls
        assert said.finish is not None
        answer = ChatChoice(
            index=choice.index,
            message=message,
            logprobs=self._logprobs(said.tokens),
            finish_reason=said.finish,
        )
        if self._body.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(
                self._model.tokenizer, choice.prompt_logprobs, self._body.prompt_logprobs
            )
        return answer

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return ChatLogprobs(
            content=[token_logprob(self._model.tokenizer, token.score) for token in tokens]
        )

    def _first_chunk(self, choice: Choice) -> ChatCompletionChunk:
        chunk = self._chunk(choice, ChatDelta(role="assistant", content=""), ())
        if self._body.prompt_logprobs is not None:
            scores = prompt_logprobs(
                self._model.tokenizer, choice.prompt_logprobs, self._body.prompt_logprobs
            )
            chunk.choices[0].prompt_logprobs = scores
        return chunk

    def _chunk(
        self,
        choice: Choice,
        delta: ChatDelta,
        tokens: Sequence[ScoredToken],
        finish: FinishReason | None = None,
    ) -> ChatCompletionChunk:
        logprobs = self._logprobs(tokens) if tokens else None
        return self._event(
            [
                ChatChunkChoice(
                    index=choice.index, delta=delta, logprobs=logprobs, finish_reason=finish
                )
            ]
        )

    def _event(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        usage: dict[str, Any] = {"usage": None} if self._with_usage else {}
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model.name,
            choices=choices,
            **usage,
        )


def _delta(part: Part) -> ChatDelta:
    match part:
        case Words(text):
            return ChatDelta(content=text)
        case CallBegun(index, id_, name):
            function = FunctionCallDelta(name=name, arguments="")
            return ChatDelta(
                tool_calls=[ToolCallDelta(index=index, id=id_, type="function", function=function)]
            )
        case Arguments(index, text):
            return ChatDelta(
                tool_calls=[ToolCallDelta(index=index, function=FunctionCallDelta(arguments=text))]
            )


def _reason(reader: Reader, piece: Piece) -> FinishReason:
    if piece.finish == "length" and not reader.enough:
        return "length"
    return "tool_calls" if reader.called else "stop"
