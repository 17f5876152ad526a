"""A chat while it is answered: its prompt, its sequences, and the words and calls that their text
turns out to be.

Common to /v1/chat/completions and /v1/responses. Both ways of answering, whole and streamed, read
the same parts (tool_calls.py). Not here: shapes of answers (chat_completions.py,
responses_stream.py).
"""

import contextlib
from collections.abc import AsyncGenerator, Sequence

from fastapi import Request

from puna.api.generation import (
    GeneratedSequence,
    Prompt,
    TextDelta,
    checked_constraint,
    engine_request,
    generated,
    generation_options,
    most_tokens,
    usage_of,
)
from puna.api.protocol import ChatRequest
from puna.api.responses import FinishReason
from puna.api.service import ChosenModel, Service
from puna.api.tool_calls import CallReader, Part, PossibleCalls, Reader, WordsReader
from puna.tokenizer.tokenizer import Tokenizer


class ChatSequence(GeneratedSequence):
    """One answer while it is generated. parts: all that were read; finish: the reason of its end,
    once it has one.
    """

    def __init__(
        self, index: int, tokenizer: Tokenizer, stop: Sequence[str], reader: Reader
    ) -> None:
        super().__init__(index, tokenizer, stop)
        self.parts: list[Part] = []
        self.finish: FinishReason | None = None
        self._reader = reader

    def read(self, delta: TextDelta) -> list[Part]:
        """The parts that a delta makes certain; with the last of them `finish` is set."""
        parts = self._reader.feed(delta.text)
        self.enough = self._reader.enough
        if delta.finish is not None or self.enough:
            parts += self._reader.end()
            self.finish = self._finish_reason(delta)
        self.parts += parts
        return parts

    def _finish_reason(self, delta: TextDelta) -> FinishReason:
        if delta.finish == "length" and not self.enough:
            return "length"
        return "tool_calls" if self._reader.called else "stop"


class ChatGeneration:
    """One chat request while it is answered. prompt: set when the first delta has come."""

    prompt: Prompt[ChatSequence]

    def __init__(
        self, service: Service, model: ChosenModel, body: ChatRequest, request: Request
    ) -> None:
        self._service, self._model, self._body, self._request = service, model, body, request

    async def deltas(self) -> AsyncGenerator[tuple[ChatSequence, TextDelta, list[Part]]]:
        """Deltas of all sequences with the parts that they make certain. Raises ApiError,
        TooManyRequests.
        """
        async with self._service.admit(self._request, self._body.n or 1):
            self.prompt = await self._encoded()
            deltas = generated(self._service, self._model, [self.prompt], self._body)
            async with contextlib.aclosing(deltas):
                async for sequence, delta in deltas:
                    yield sequence, delta, sequence.read(delta)

    async def _encoded(self) -> Prompt[ChatSequence]:
        body, model, limits = self._body, self._model, self._service.limits
        field = body.conversation_field
        ids = await model.encode_chat(body.messages, body.callable_tools, answer=True, field=field)
        left = self._service.tokens_left(ids, model, field)
        options = generation_options(
            body,
            model,
            max_tokens=most_tokens(
                left,
                limits,
                body.max_completion_tokens,
                body.max_tokens,
                default=model.defaults.get("max_tokens"),
            ),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            constraint=await checked_constraint(body, limits),
        )
        sequences = [
            ChatSequence(index, model.tokenizer, options.stop, self._reader())
            for index in range(options.n)
        ]
        prompt = Prompt(engine_request(ids, options, model), sequences)
        self._request.state.usage = lambda: usage_of([prompt])
        return prompt

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
