"""/v1/embeddings: texts in, vectors out: the mean of the model's final hidden states over the text,
scaled to length 1.

A language model was not trained for this: its vectors differ where its states do, no more.
"""

import asyncio
import base64
import math
import struct
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.error_response import ApiError
from puna.api.fields import prompts_in
from puna.api.generation import engine_events
from puna.api.json_body import JsonBody
from puna.api.openapi import gives, takes
from puna.api.protocol import EmbeddingRequest
from puna.api.responses import Embedding, EmbeddingList, PromptUsage
from puna.api.service import ChosenModel, Service
from puna.api.streaming import WholeAnswer
from puna.inference.request import GenerationOptions
from puna.inference.request import Request as EngineRequest


def routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/embeddings", openapi_extra=takes(EmbeddingRequest), responses=gives(EmbeddingList)
    )
    async def create_embedding(
        request: Request,
        body: Annotated[EmbeddingRequest, Depends(JsonBody(EmbeddingRequest, service))],
    ) -> Response:
        """Make vectors of texts."""
        return WholeAnswer(embedded(service, service.model(body.model), body, request))

    return router


async def embedded(
    service: Service, model: ChosenModel, body: EmbeddingRequest, request: Request
) -> EmbeddingList:
    """A vector for each input, in order."""
    inputs = prompts_in(body.input)
    async with service.admit(request, len(inputs)):
        texts = [await model.encode_prompt(given) for given in inputs]
        for text in texts:
            service.tokens_left(text.ids, model, "input", least=0)
        read = sum(len(text.ids) for text in texts)
        usage = PromptUsage(prompt_tokens=read, total_tokens=read)
        request.state.usage = lambda: usage
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_vector(service, model, text.ids)) for text in texts]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        vectors = [task.result() for task in tasks]
        if body.dimensions not in (None, width := len(vectors[0])):
            raise ApiError(
                400,
                f"dimensions: a vector is as wide as the model, {width}, and is not shortened to"
                f" {body.dimensions}; leave it out",
                param="dimensions",
                code="unsupported_field",
            )
        return EmbeddingList(
            object="list",
            data=[
                _answer(index, vector, body.encoding_format == "base64")
                for index, vector in enumerate(vectors)
            ],
            model=model.name,
            usage=usage,
        )


async def _vector(service: Service, model: ChosenModel, ids: Sequence[int]) -> list[float]:
    """The scaled mean, [D]."""
    request = EngineRequest(
        uuid.uuid4().hex,
        tuple(ids),
        GenerationOptions(max_tokens=1, adapter=model.adapter),
        embed=True,
    )
    async with aclosing(engine_events(service, model, request)) as events:
        async for event in events:
            if event.embedding:
                length = math.sqrt(math.fsum(value * value for value in event.embedding))
                return (
                    [value / length for value in event.embedding]
                    if length
                    else list(event.embedding)
                )
    raise ApiError(500, "the engine gave no vector", code="engine_error")


def _answer(index: int, vector: Sequence[float], encoded: bool) -> Embedding:
    numbers = (
        base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
        if encoded
        else list(vector)
    )
    return Embedding(object="embedding", index=index, embedding=numbers)
