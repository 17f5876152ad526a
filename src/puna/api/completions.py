"""/v1/completions: texts in, their continuations out, whole or bit by bit.

A text is continued as the model met texts in training: behind the token that opens one. Ids are
continued as they are.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.formats import constraint_of
from puna.api.generation import (
    Choice,
    Prompt,
    ScoredToken,
    checked,
    continued,
    generation_options,
    prompt_of,
    room_for,
)
from puna.api.json_body import JsonBody
from puna.api.openapi import gives, takes
from puna.api.protocol import CompletionRequest
from puna.api.responses import Completion, CompletionChoice, CompletionLogprobs
from puna.api.scores import EchoedPrompt, completion_logprobs, prompt_logprobs
from puna.api.service import ChosenModel, Service
from puna.api.streaming import EventStream, WholeAnswer
from puna.api.texts import PromptText, encode_prompt, prompts_in
from puna.api.usage import usage_of


def routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/completions",
        openapi_extra=takes(CompletionRequest),
        responses=gives(Completion, Completion),
    )
    async def create_completion(
        request: Request,
        body: Annotated[CompletionRequest, Depends(JsonBody(CompletionRequest, service))],
    ) -> Response:
        """Continue texts."""
        continuation = Continuation(service, service.model(body.model), body, request)
        if body.stream:
            return EventStream(continuation.streamed(), service.limits.request_seconds)
        return WholeAnswer(continuation.whole())

    return router


@dataclass
class _Written:
    """What one continuation has written so far."""

    text: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish: Literal["stop", "length"] = "length"


class Continuation:
    """One request being answered."""

    def __init__(
        self, service: Service, model: ChosenModel, body: CompletionRequest, request: Request
    ) -> None:
        self._service, self._model, self._body, self._request = service, model, body, request
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self._given = prompts_in(body.prompt if body.prompt is not None else "")
        self._sequences = len(self._given) * (body.n or 1)

    async def whole(self) -> Completion:
        """All continuations, complete."""
        async with self._service.admit(self._request, self._sequences):
            texts, prompts = await self._prompts()
            written = {choice: _Written() for prompt in prompts for choice in prompt.choices}
            async with contextlib.aclosing(self._pieces(prompts)) as pieces:
                async for choice, text, tokens, finish in pieces:
                    one = written[choice]
                    one.text.append(text)
                    one.tokens += tokens
                    one.finish = finish or one.finish
            choices = []
            for given, prompt in zip(texts, prompts, strict=True):
                for choice in prompt.choices:
                    one = written[choice]
                    choices.append(
                        self._choice(
                            choice, given, "".join(one.text), one.tokens, one.finish, first=True
                        )
                    )
            answer = self._answer(choices)
            answer.usage = usage_of(prompts, completed=not self._scores_only)
            return answer

    async def streamed(self) -> AsyncGenerator[Completion]:
        """All continuations, bit by bit; the last event of each says why it ended."""
        async with self._service.admit(self._request, self._sequences):
            texts, prompts = await self._prompts()
            given_to = {
                choice: given
                for given, prompt in zip(texts, prompts, strict=True)
                for choice in prompt.choices
            }
            begun: set[Choice] = set()
            async with contextlib.aclosing(self._pieces(prompts)) as pieces:
                async for choice, text, tokens, finish in pieces:
                    first = choice not in begun
                    if first or text or tokens or finish:
                        begun.add(choice)
                        yield self._event(
                            [
                                self._choice(
                                    choice, given_to[choice], text, tokens, finish, first=first
                                )
                            ]
                        )
            if self._with_usage:
                last = self._event([])
                last.usage = usage_of(prompts, completed=not self._scores_only)
                yield last

    @property
    def _scores_only(self) -> bool:
        """Whether nothing is to be generated. The engine generates one token all the same, and
        nobody sees it.
        """
        return self._body.max_tokens == 0

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and bool(options.include_usage)

    async def _prompts(self) -> tuple[list[PromptText], list[Prompt]]:
        body, model, limits = self._body, self._model, self._service.limits
        texts = [await encode_prompt(model.tokenizer, given) for given in self._given]
        constraint = await checked(constraint_of(body.response_format), body, limits)
        prompts = []
        for place, text in enumerate(texts):
            room = room_for(text.ids, model, self._service, "prompt")
            wanted = limits.output_tokens if body.max_tokens is None else max(body.max_tokens, 1)
            options = generation_options(
                body,
                model,
                max_tokens=min(wanted, room),
                logprobs=body.logprobs,
                constraint=constraint,
            )
            if body.echo and body.logprobs is not None:
                most = max(body.logprobs, body.prompt_logprobs or 0)
                options = options.model_copy(update={"prompt_logprobs": most})
            prompts.append(prompt_of(text.ids, options, model, place * options.n))
        return texts, prompts

    async def _pieces(
        self, prompts: Sequence[Prompt]
    ) -> AsyncGenerator[
        tuple[Choice, str, tuple[ScoredToken, ...], Literal["stop", "length"] | None]
    ]:
        pieces = continued(self._service, self._model, prompts, self._body)
        async with contextlib.aclosing(pieces):
            async for choice, piece in pieces:
                if self._scores_only:
                    choice.enough = True
                    yield choice, "", (), "length"
                elif piece.finish is None:
                    yield choice, piece.text, piece.tokens, None
                else:
                    yield (
                        choice,
                        piece.text,
                        piece.tokens,
                        "length" if piece.finish == "length" else "stop",
                    )

    def _choice(
        self,
        choice: Choice,
        prompt: PromptText,
        text: str,
        tokens: Sequence[ScoredToken],
        finish: Literal["stop", "length"] | None,
        *,
        first: bool,
    ) -> CompletionChoice:
        """first: nothing of this choice was given before, so the prompt is, if it is to be."""
        echoes = first and bool(self._body.echo)
        answer = CompletionChoice(
            index=choice.index,
            text=prompt.said + text if echoes else text,
            logprobs=self._logprobs(choice, prompt, tokens, echoes=echoes),
            finish_reason=finish,
        )
        if first and self._body.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(
                self._model.tokenizer, choice.prompt_logprobs, self._body.prompt_logprobs
            )
        return answer

    def _logprobs(
        self, choice: Choice, prompt: PromptText, tokens: Sequence[ScoredToken], *, echoes: bool
    ) -> CompletionLogprobs | None:
        alternatives = self._body.logprobs
        if alternatives is None:
            return None
        echoed = (
            EchoedPrompt(prompt.ids, choice.prompt_logprobs, alternatives, opened=prompt.opened)
            if echoes
            else None
        )
        offset = len(prompt.said) if self._body.echo else 0
        return completion_logprobs(self._model.tokenizer, tokens, offset, echoed)

    def _event(self, choices: list[CompletionChoice]) -> Completion:
        answer = self._answer(choices)
        if self._with_usage:
            answer.usage = None
        return answer

    def _answer(self, choices: list[CompletionChoice], **more: Any) -> Completion:
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model.name,
            choices=choices,
            **more,
        )
