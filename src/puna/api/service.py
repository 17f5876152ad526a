"""The objects that all endpoints share: the engine's client, the limits, admission control, and the
models by the names that requests use.

A request names a model as /v1/models does: `name`, or `name:adapter` for one of its adapters. A
name is looked up among what was loaded and is never a path.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from puna.api.chat_messages import Message, Tool, as_turns
from puna.api.error_response import ApiError
from puna.api.fields import MESSAGES, TOKEN_ID
from puna.api.limits import Admission, Limits
from puna.api.responses import Model, ModelList
from puna.engine_process.client import EngineClient
from puna.engine_process.served_model import ServedModel
from puna.errors import TokenizerError
from puna.tokenizer.tokenizer import Tokenizer

_MESSAGE_TOKENS = 4
"""Of the shortest message: the two marks around its role, the role, the mark of its end."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as ids, with its text. opened: the first id was put before it, and is not part of
    it.
    """

    ids: list[int]
    opened: bool
    text: str


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model as a request named it."""

    name: str
    """As the request said it, and as the answer repeats it."""
    served: ServedModel
    adapter: str | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary."""
        return self.served.text.tokenizer

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Options of generation where a request gives none, by the names of
        `GenerationOptions`.
        """
        return self.served.text.defaults

    async def encode_prompt(self, given: str | list[int]) -> EncodedPrompt:
        """A prompt as ids, of which there is at least one. A text is read as the model met texts in
        training: behind the token that opens one. Ids are taken as they are.
        """
        tokenizer = self.tokenizer
        if not isinstance(given, str):
            return EncodedPrompt(given, False, tokenizer.decode(given))
        # leaves the interpreter to others, as `encode` does not
        (ids,) = await asyncio.to_thread(tokenizer.encode_documents, [given])
        opened = tokenizer.bos_id is not None or not ids
        return EncodedPrompt(ids or [tokenizer.eos_id], opened, given)

    async def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        answer: bool,
        field: str = "messages",
    ) -> list[int]:
        """A conversation as ids, `answer`: up to the beginning of the answer. field: its name in
        errors. Raises ApiError for what the layout of the model's chats cannot hold.
        """
        try:
            return await asyncio.to_thread(
                self.served.text.layout.encode,
                as_turns(messages),
                tools=[tool.described() for tool in tools],
                add_generation_prompt=answer,
            )
        except TokenizerError as error:
            message = f"{field}: {error}"
            raise ApiError(400, message, param=field, code="invalid_value") from error

    def described(self) -> Model:
        """Its entry in /v1/models."""
        served = self.served
        return Model(
            id=self.name,
            object="model",
            created=served.text.created,
            owned_by="puna",
            max_model_len=served.loaded.context_length,
        )


@dataclass(frozen=True, slots=True)
class Service:
    """The objects that an endpoint needs and does not own."""

    client: EngineClient
    limits: Limits
    admission: Admission

    def models(self) -> dict[str, ChosenModel]:
        """The models and adapters that requests can name, by name."""
        chosen = [
            ChosenModel(
                served.loaded.name if adapter is None else f"{served.loaded.name}:{adapter}",
                served,
                adapter,
            )
            for name, served in self.client.models.items()
            for adapter in (None, *served.loaded.adapters)
        ]
        return {model.name: model for model in chosen}

    def model(self, name: str | None) -> ChosenModel:
        """The model of this name, or the only one for None. Raises ApiError: a 404, or a 400 where
        there are several.
        """
        models = self.models()
        if name is None:
            bare = [model for model in models.values() if model.adapter is None]
            if len(bare) == 1:
                return bare[0]
            message = f"model: there are several, so name one of {', '.join(models)}"
            raise ApiError(400, message, param="model", code="invalid_value")
        if name not in models:
            message = f"there is no model {name[:100]!r} here; loaded: {', '.join(models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return models[name]

    def capacity(self, model: ChosenModel) -> int:
        """Tokens that a prompt and its answer may have together: the context, if the cache holds
        it.
        """
        loaded = model.served.loaded
        return min(loaded.context_length, loaded.cache_tokens)

    def tokens_left(
        self, ids: Sequence[int], model: ChosenModel, field: str, *, least: int = 1
    ) -> int:
        """Tokens that may follow the prompt in `field`. Raises ApiError, a 400 with the numbers, if
        there is no room for `least`, 1 or none.
        """
        context, limit = self.capacity(model), self.limits.prompt_tokens
        most = min(context - least, limit)
        if len(ids) > most:
            why = (
                f"this model's context of {context} must hold it{' and at least one more' * least}"
                if most < limit
                else "that is this server's limit"
            )
            raise ApiError(
                400,
                f"{field}: the prompt has {len(ids)} tokens, but may have at most {most}: {why}."
                " Shorten it",
                param=field,
                code="context_length_exceeded",
            )
        return context - len(ids)

    def model_list(self) -> ModelList:
        """The answer of /v1/models."""
        return ModelList(
            object="list", data=[model.described() for model in self.models().values()]
        )

    def bounds(self, model: str | None = None) -> dict[str, int]:
        """The numbers behind the bounds of fields: the limits, and the bounds of this model, or of
        all.
        """
        models = self.models()
        asked = [models[model]] if model in models else list(models.values())
        largest = max((chosen.tokenizer.vocab_size for chosen in asked), default=1) - 1
        context = max((chosen.served.loaded.context_length for chosen in asked), default=1)
        return {**self.limits.model_dump(), TOKEN_ID: largest, MESSAGES: context // _MESSAGE_TOKENS}

    @asynccontextmanager
    async def admit(self, request: Request, sequences: int = 1) -> AsyncIterator[None]:
        """Count the request as in progress while the block runs, with `sequences` that run or wait.
        Raises TooManyRequests.
        """
        async with self.admission.enter(request.state.caller, sequences):
            yield
