"""What the endpoints share: the engine, the limits, who may enter, and the models by the names that
requests call them.

A request names a model as /v1/models does: `name`, or `name:adapter` for one of its adapters. A
name is looked up among what was loaded and is never a path.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from puna.api.error_response import ApiError
from puna.api.fields import MESSAGES, TOKEN_ID
from puna.api.limits import Admission, Limits
from puna.api.responses import Model, ModelList
from puna.engine_process.client import EngineClient, ServedModel
from puna.tokenizer.tokenizer import Tokenizer

_MESSAGE_TOKENS = 4
"""What the least message takes: the two marks around its role, the role, the mark of its end."""


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
        return self.served.tokenizer

    def described(self) -> Model:
        """What /v1/models says of it."""
        served = self.served
        return Model(
            id=self.name,
            object="model",
            created=served.created,
            owned_by="puna",
            max_model_len=served.loaded.context_length,
        )


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that an endpoint needs and does not own."""

    client: EngineClient
    limits: Limits
    admission: Admission

    def models(self) -> dict[str, ChosenModel]:
        """What requests can name, by name."""
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

    def model(self, name: str) -> ChosenModel:
        """The model of this name. Raises ApiError, a 404."""
        models = self.models()
        if name not in models:
            message = f"there is no model {name[:100]!r} here; loaded: {', '.join(models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return models[name]

    def capacity(self, model: ChosenModel) -> int:
        """Tokens that a prompt and its continuation may have together: the context, if the cache
        holds it.
        """
        loaded = model.served.loaded
        return min(loaded.context_length, loaded.cache_tokens)

    def model_list(self) -> ModelList:
        """What /v1/models says."""
        return ModelList(
            object="list", data=[model.described() for model in self.models().values()]
        )

    def bounds(self, model: str | None = None) -> dict[str, int]:
        """The numbers behind the bounds of fields: the limits, and what follows from this model, or
        from all.
        """
        models = self.models()
        asked = [models[model]] if model in models else list(models.values())
        largest = max((chosen.tokenizer.vocab_size for chosen in asked), default=1) - 1
        context = max((chosen.served.loaded.context_length for chosen in asked), default=1)
        return {**self.limits.model_dump(), TOKEN_ID: largest, MESSAGES: context // _MESSAGE_TOKENS}

    @asynccontextmanager
    async def admit(self, request: Request, sequences: int = 1) -> AsyncIterator[None]:
        """Hold a place while the block runs; raises TooManyRequests. `sequences` will run or
        wait.
        """
        async with self.admission.enter(request.state.caller, sequences):
            yield
