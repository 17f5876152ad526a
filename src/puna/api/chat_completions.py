"""/v1/chat/completions: a conversation in, the assistant's answers out, whole or streamed.

Both ways read the same parts of an answer (tool_calls.py), so a streamed answer joins to the whole
one.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.generation import (
    GeneratedSequence,
    Prompt,
    TextDelta,
    TextToken,
    checked_constraint,
    engine_request,
    generated,
    generation_options,
    most_tokens,
    usage_of,
)
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
from puna.tokenizer.tokenizer import Tokenizer


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
        chat = ChatGeneration(service, service.model(body.model), body, request)
        return (
            EventStream(chat.streamed(), service.limits.request_seconds)
            if body.stream
            else WholeAnswer(chat.whole())
        )

    return router


class _ChatSequence(GeneratedSequence):
    """One answer while it is generated, read as words and calls."""

    def __init__(
        self, index: int, tokenizer: Tokenizer, stop: Sequence[str], reader: Reader
    ) -> None:
        super().__init__(index, tokenizer, stop)
        self.words: list[str] = []
        self.calls: list[ChatToolCall] = []
        self.finish: FinishReason | None = None
        self._reader = reader

    def read(self, delta: TextDelta) -> list[Part]:
        """The parts that a delta makes certain; with the last of them `finish` is set."""
        parts = self._reader.feed(delta.text)
        self.enough = self._reader.enough
        if delta.finish is not None or self.enough:
            parts += self._reader.end()
            self.finish = self._finish_reason(delta)
        for part in parts:
            match part:
                case Words(text):
                    self.words.append(text)
                case CallBegun(_, id_, name):
                    function = FunctionCall(name=name, arguments="")
                    self.calls.append(ChatToolCall(id=id_, type="function", function=function))
                case Arguments(index, text):
                    self.calls[index].function.arguments += text
        return parts

    def _finish_reason(self, delta: TextDelta) -> FinishReason:
        if delta.finish == "length" and not self.enough:
            return "length"
        return "tool_calls" if self._reader.called else "stop"


class ChatGeneration:
    """One chat request while it is answered."""

    def __init__(
        self, service: Service, model: ChosenModel, body: ChatRequest, request: Request
    ) -> None:
        self._service, self._model, self._body, self._request = service, model, body, request
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self) -> ChatCompletion:
        """All answers, complete."""
        async with self._service.admit(self._request, self._body.n or 1):
            prompt = await self._prompt()
            async with contextlib.aclosing(self._parts(prompt)) as parts:
                async for _ in parts:
                    pass
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
        async with self._service.admit(self._request, self._body.n or 1):
            prompt = await self._prompt()
            begun: set[int] = set()
            async with contextlib.aclosing(self._parts(prompt)) as parts:
                async for sequence, delta, new in parts:
                    if sequence.index not in begun:
                        begun.add(sequence.index)
                        yield self._first_chunk(sequence)
                    # logprobs whose text a reader still holds back go with an empty delta
                    deltas = [_delta(part) for part in new] or [ChatDelta()] * bool(delta.tokens)
                    for number, chat_delta in enumerate(deltas):
                        tokens = delta.tokens if number == 0 else ()
                        yield self._chunk(sequence, chat_delta, tokens)
                    if sequence.finish is not None:
                        yield self._chunk(sequence, ChatDelta(), (), sequence.finish)
            if self._with_usage:
                last = self._event([])
                last.usage = usage_of([prompt])
                yield last

    async def _prompt(self) -> Prompt[_ChatSequence]:
        body, model, limits = self._body, self._model, self._service.limits
        ids = await model.encode_chat(body.messages, body.callable_tools, answer=True)
        left = self._service.tokens_left(ids, model, "messages")
        options = generation_options(
            body,
            model,
            max_tokens=most_tokens(left, limits, body.max_completion_tokens, body.max_tokens),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            constraint=await checked_constraint(body, limits),
        )
        sequences = [
            _ChatSequence(index, model.tokenizer, options.stop, self._reader())
            for index in range(options.n)
        ]
        return Prompt(engine_request(ids, options, model), sequences)

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def _not_stored(self) -> dict[str, Any]:
        return {"store": False} if self._body.store else {}

    def _reader(self) -> Reader:
        if not self._body.callable_tools:
            return WordsReader()
        if self._body.must_call:
            return CallReader()
        names = {tool.function.name for tool in self._body.callable_tools}
        return PossibleCalls(
            names,
            single=self._body.parallel_tool_calls is False,
            alone=self._body.constrained_by is not None,
        )

    async def _parts(
        self, prompt: Prompt[_ChatSequence]
    ) -> AsyncGenerator[tuple[_ChatSequence, TextDelta, list[Part]]]:
        """Deltas with the parts that they make certain."""
        deltas = generated(self._service, self._model, [prompt], self._body)
        async with contextlib.aclosing(deltas):
            async for sequence, delta in deltas:
                yield sequence, delta, sequence.read(delta)

    def _choice(self, sequence: _ChatSequence) -> ChatChoice:
        words = "".join(sequence.words)
        content = None if sequence.calls and not words else words
        message = ChatMessage(role="assistant", content=content, refusal=None)
        if sequence.calls:
            message.tool_calls = sequence.calls
        assert sequence.finish is not None
        answer = ChatChoice(
            index=sequence.index,
            message=message,
            logprobs=self._logprobs(sequence.tokens),
            finish_reason=sequence.finish,
        )
        if self._body.prompt_logprobs is not None:
            answer.prompt_logprobs = self._prompt_logprobs(sequence)
        return answer

    def _prompt_logprobs(self, sequence: _ChatSequence) -> list[TokenLogprob | None]:
        logprobs = sequence.detokenizer.prompt_logprobs
        return prompt_logprobs(self._model.tokenizer, logprobs, self._body.prompt_logprobs or 0)

    def _logprobs(self, tokens: Sequence[TextToken]) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return ChatLogprobs(
            content=[token_logprob(self._model.tokenizer, token.logprobs) for token in tokens]
        )

    def _first_chunk(self, sequence: _ChatSequence) -> ChatCompletionChunk:
        chunk = self._chunk(sequence, ChatDelta(role="assistant", content=""), ())
        if self._body.prompt_logprobs is not None:
            chunk.choices[0].prompt_logprobs = self._prompt_logprobs(sequence)
        return chunk

    def _chunk(
        self,
        sequence: _ChatSequence,
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
