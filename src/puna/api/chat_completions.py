"""/v1/chat/completions: a conversation in, the assistant's answers out, whole or streamed.

Both ways read the same parts of an answer (chat_generation.py), so a streamed answer joins to the
whole one.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.chat_generation import ChatGeneration, ChatSequence
from puna.api.generation import TextToken, usage_of
from puna.api.json_body import JsonBody
from puna.api.logprobs import prompt_logprobs, token_logprob
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
    ChatToolCall,
    FinishReason,
    FunctionCall,
    FunctionCallDelta,
    TokenLogprob,
    ToolCallDelta,
)
from puna.api.service import ChosenModel, Service
from puna.api.streaming import EventStream, WholeAnswer
from puna.api.tool_calls import Arguments, CallBegun, Part, Words


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
        chat = ChatAnswer(service, service.model(body.model), body, request)
        return (
            EventStream(chat.streamed(), service.limits.request_seconds)
            if body.stream
            else WholeAnswer(chat.whole())
        )

    return router


class ChatAnswer:
    """The answers to one chat request."""

    def __init__(
        self, service: Service, model: ChosenModel, body: ChatRequest, request: Request
    ) -> None:
        self._model, self._body = model, body
        self._chat = ChatGeneration(service, model, body, request)
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self) -> ChatCompletion:
        """All answers, complete."""
        async with contextlib.aclosing(self._chat.deltas()) as deltas:
            async for _ in deltas:
                pass
        prompt = self._chat.prompt
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model.name,
            choices=[self._choice(sequence) for sequence in prompt.sequences],
            usage=usage_of([prompt]),
            **self._not_stored,
        )

    async def streamed(self) -> AsyncGenerator[ChatCompletionChunk]:
        """All answers as they come: for each an event with the role, its parts, and an event with
        the reason of its end.
        """
        begun: set[int] = set()
        async with contextlib.aclosing(self._chat.deltas()) as deltas:
            async for sequence, delta, new in deltas:
                if sequence.index not in begun:
                    begun.add(sequence.index)
                    yield self._first_chunk(sequence)
                # logprobs whose text a reader still holds back go with an empty delta
                parts = [_delta(part) for part in new] or [ChatDelta()] * bool(delta.tokens)
                for number, chat_delta in enumerate(parts):
                    tokens = delta.tokens if number == 0 else ()
                    yield self._chunk(sequence, chat_delta, tokens)
                if sequence.finish is not None:
                    yield self._chunk(sequence, ChatDelta(), (), sequence.finish)
        if self._with_usage:
            last = self._event([])
            last.usage = usage_of([self._chat.prompt])
            yield last

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def _not_stored(self) -> dict[str, Any]:
        return {"store": False} if self._body.store else {}

    def _choice(self, sequence: ChatSequence) -> ChatChoice:
        assert sequence.finish is not None
        answer = ChatChoice(
            index=sequence.index,
            message=_message(sequence.parts),
            logprobs=self._logprobs(sequence.tokens),
            finish_reason=sequence.finish,
        )
        if self._body.prompt_logprobs is not None:
            answer.prompt_logprobs = self._prompt_logprobs(sequence)
        return answer

    def _prompt_logprobs(self, sequence: ChatSequence) -> list[TokenLogprob | None]:
        logprobs = sequence.detokenizer.prompt_logprobs
        return prompt_logprobs(self._model.tokenizer, logprobs, self._body.prompt_logprobs or 0)

    def _logprobs(self, tokens: Sequence[TextToken]) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return ChatLogprobs(
            content=[token_logprob(self._model.tokenizer, token.logprobs) for token in tokens]
        )

    def _first_chunk(self, sequence: ChatSequence) -> ChatCompletionChunk:
        chunk = self._chunk(sequence, ChatDelta(role="assistant", content=""), ())
        if self._body.prompt_logprobs is not None:
            chunk.choices[0].prompt_logprobs = self._prompt_logprobs(sequence)
        return chunk

    def _chunk(
        self,
        sequence: ChatSequence,
        delta: ChatDelta,
        tokens: Sequence[TextToken],
        finish: FinishReason | None = None,
    ) -> ChatCompletionChunk:
        choice = ChatChunkChoice(
            index=sequence.index,
            delta=delta,
            logprobs=self._logprobs(tokens) if tokens else None,
            finish_reason=finish,
        )
        return self._event([choice])

    def _event(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        usage: dict[str, Any] = {"usage": None} if self._with_usage else {}
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model.name,
            choices=choices,
            **usage,
            **self._not_stored,
        )


def _message(parts: Sequence[Part]) -> ChatMessage:
    """The parts of an answer as one message."""
    words: list[str] = []
    calls: list[ChatToolCall] = []
    for part in parts:
        match part:
            case Words(text):
                words.append(text)
            case CallBegun(_, id_, name):
                function = FunctionCall(name=name, arguments="")
                calls.append(ChatToolCall(id=id_, type="function", function=function))
            case Arguments(index, text):
                calls[index].function.arguments += text
    content = None if calls and not words else "".join(words)
    message = ChatMessage(role="assistant", content=content, refusal=None)
    if calls:
        message.tool_calls = calls
    return message


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
