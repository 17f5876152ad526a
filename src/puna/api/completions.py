"""/v1/completions: prompts in, texts that continue them out, whole or streamed.

A text is continued as the model met texts in training: behind the token that opens one. Ids are
continued as they are.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.fields import prompts_in
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
from puna.api.logprobs import EchoedPrompt, completion_logprobs, prompt_logprobs
from puna.api.openapi import gives, takes
from puna.api.protocol import CompletionRequest
from puna.api.responses import CompletionChoice, CompletionLogprobs, TextCompletion
from puna.api.service import ChosenModel, EncodedPrompt, Service
from puna.api.streaming import EventStream, WholeAnswer


def routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/completions",
        openapi_extra=takes(CompletionRequest),
        responses=gives(TextCompletion, TextCompletion),
    )
    async def create_completion(
        request: Request,
        body: Annotated[CompletionRequest, Depends(JsonBody(CompletionRequest, service))],
    ) -> Response:
        """Continue texts."""
        completion = CompletionGeneration(service, service.model(body.model), body, request)
        if body.stream:
            return EventStream(completion.streamed(), service.limits.request_seconds)
        return WholeAnswer(completion.whole())

    return router


class CompletionGeneration:
    """One request for completions while it is answered."""

    def __init__(
        self, service: Service, model: ChosenModel, body: CompletionRequest, request: Request
    ) -> None:
        self._service, self._model, self._body, self._request = service, model, body, request
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self._given = prompts_in(body.prompt if body.prompt is not None else "")
        self._sequences = len(self._given) * (body.n or 1)

    async def whole(self) -> TextCompletion:
        """All texts, complete."""
        async with self._service.admit(self._request, self._sequences):
            texts, prompts = await self._prompts()
            async with contextlib.aclosing(self._deltas(prompts)) as deltas:
                async for _ in deltas:
                    pass
            choices = [
                self._choice(sequence, text, self._all_of(sequence), first=True)
                for text, prompt in zip(texts, prompts, strict=True)
                for sequence in prompt.sequences
            ]
            answer = self._answer(choices)
            answer.usage = usage_of(prompts, completed=not self._prompt_only)
            return answer

    async def streamed(self) -> AsyncGenerator[TextCompletion]:
        """All texts as they come; the last event of each has the reason of its end."""
        async with self._service.admit(self._request, self._sequences):
            texts, prompts = await self._prompts()
            begun: set[int] = set()
            async with contextlib.aclosing(self._deltas(prompts)) as deltas:
                async for sequence, delta in deltas:
                    first = sequence.index not in begun
                    if first or delta.text or delta.tokens or delta.finish:
                        begun.add(sequence.index)
                        text = texts[sequence.index // len(prompts[0].sequences)]
                        yield self._event([self._choice(sequence, text, delta, first=first)])
            if self._with_usage:
                last = self._event([])
                last.usage = usage_of(prompts, completed=not self._prompt_only)
                yield last

    @property
    def _prompt_only(self) -> bool:
        """True if no generated text is wanted. The engine generates one token all the same, which
        is not given.
        """
        return self._body.max_tokens == 0

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and bool(options.include_usage)

    async def _prompts(
        self,
    ) -> tuple[list[EncodedPrompt], list[Prompt[GeneratedSequence]]]:
        body, model, limits = self._body, self._model, self._service.limits
        texts = [await model.encode_prompt(given) for given in self._given]
        constraint = await checked_constraint(body, limits)
        prompts = []
        for number, text in enumerate(texts):
            least = 0 if self._prompt_only else 1
            left = self._service.tokens_left(text.ids, model, "prompt", least=least)
            options = generation_options(
                body,
                model,
                max_tokens=max(
                    most_tokens(
                        left, limits, body.max_tokens, default=model.defaults.get("max_tokens")
                    ),
                    1,
                ),
                logprobs=body.logprobs,
                constraint=constraint,
            )
            if body.echo and body.logprobs is not None:
                most = max(body.logprobs, body.prompt_logprobs or 0)
                options = options.model_copy(update={"prompt_logprobs": most})
            opens = not model.tokenizer.holds_text(text.ids)
            sequences = [
                GeneratedSequence(
                    number * options.n + index, model.tokenizer, options.stop, opens_text=opens
                )
                for index in range(options.n)
            ]
            prompts.append(Prompt(engine_request(text.ids, options, model), sequences))
        self._request.state.usage = lambda: usage_of(prompts, completed=not self._prompt_only)
        return texts, prompts

    async def _deltas(
        self, prompts: Sequence[Prompt[GeneratedSequence]]
    ) -> AsyncGenerator[tuple[GeneratedSequence, TextDelta]]:
        deltas = generated(self._service, self._model, prompts, self._body)
        async with contextlib.aclosing(deltas):
            async for sequence, delta in deltas:
                sequence.enough = self._prompt_only
                yield sequence, TextDelta("", (), "length") if self._prompt_only else delta

    def _all_of(self, sequence: GeneratedSequence) -> TextDelta:
        """All of a finished sequence, as one delta."""
        if self._prompt_only:
            return TextDelta("", (), "length")
        made = sequence.detokenizer
        return TextDelta(made.text, sequence.tokens, made.finish)

    def _choice(
        self, sequence: GeneratedSequence, prompt: EncodedPrompt, delta: TextDelta, *, first: bool
    ) -> CompletionChoice:
        """first: nothing of this sequence was given before, so the prompt is, if it is to be."""
        echoes = first and bool(self._body.echo)
        answer = CompletionChoice(
            index=sequence.index,
            text=prompt.text + delta.text if echoes else delta.text,
            logprobs=self._logprobs(sequence, prompt, self._listed(sequence, delta), echoes=echoes),
            finish_reason=_finish_reason(delta),
        )
        if first and self._body.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(
                self._model.tokenizer,
                sequence.detokenizer.prompt_logprobs,
                self._body.prompt_logprobs,
            )
        return answer

    def _listed(self, sequence: GeneratedSequence, delta: TextDelta) -> Sequence[TextToken]:
        """The tokens of a delta; after an echoed prompt its end token too. Programs that score
        prompts (lm-evaluation-harness) ask for one new token, and drop the last of the list as it.
        """
        made = sequence.detokenizer
        ended = delta.finish is not None and len(made.ids) > len(made.offsets)
        if not (self._body.echo and ended and made.logprobs) or self._prompt_only:
            return delta.tokens
        return [*delta.tokens, TextToken(made.logprobs[-1], len(made.text))]

    def _logprobs(
        self,
        sequence: GeneratedSequence,
        prompt: EncodedPrompt,
        tokens: Sequence[TextToken],
        *,
        echoes: bool,
    ) -> CompletionLogprobs | None:
        alternatives = self._body.logprobs
        if alternatives is None:
            return None
        echoed = None
        if echoes:
            logprobs = sequence.detokenizer.prompt_logprobs
            echoed = EchoedPrompt(prompt.ids, logprobs, alternatives, opened=prompt.opened)
        offset = len(prompt.text) if self._body.echo else 0
        return completion_logprobs(self._model.tokenizer, tokens, offset, echoed)

    def _event(self, choices: list[CompletionChoice]) -> TextCompletion:
        answer = self._answer(choices)
        if self._with_usage:
            answer.usage = None
        return answer

    def _answer(self, choices: list[CompletionChoice], **more: Any) -> TextCompletion:
        return TextCompletion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model.name,
            choices=choices,
            **more,
        )


def _finish_reason(delta: TextDelta) -> Literal["stop", "length"] | None:
    if delta.finish is None:
        return None
    return "length" if delta.finish == "length" else "stop"
