"""The OpenAPI document of a running server, with the numbers of its limits and the names of its
models.

FastAPI describes paths and answers; bodies of requests are described here, since json_body.py reads
them and not FastAPI.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from puna.api.error_response import ErrorResponse
from puna.api.fields import BOUND, MODEL_NAME, TOKEN_ID
from puna.api.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from puna.api.responses import Answer, ChatCompletionChunk
from puna.api.responses_answer import RESPONSE_EVENTS
from puna.api.responses_request import ResponsesRequest
from puna.api.service import Service
from puna.config import Config

DESCRIBED: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeTextRequest,
    TokenizeChatRequest,
    DetokenizeRequest,
    ResponsesRequest,
    ChatCompletionChunk,
    *RESPONSE_EVENTS,
)
"""Shapes that FastAPI does not see: bodies of requests, and events."""

_REFERENCE = "#/components/schemas/{model}"
_LENGTHS = {
    "string": "maxLength",
    "array": "maxItems",
    "object": "maxProperties",
    "integer": "maximum",
}
_ERRORS = {
    400: "a field is wrong, or the JSON is",
    401: "the API key is missing or wrong",
    403: "the Host header names another server",
    404: "there is no such model",
    408: "the request took too long to arrive",
    413: "the body is too large",
    415: "the body is not application/json",
    429: "too many requests; the Retry-After header says when to come again",
    500: "the server failed",
    503: "the server is loading, draining, stuck or full",
    504: "the answer took too long",
}


def takes(*bodies: type[Config]) -> dict[str, Any]:
    """A route's description of the JSON that it takes."""
    references = [{"$ref": _REFERENCE.format(model=body.__name__)} for body in bodies]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def gives(
    answer: type[Answer], streams: type[Answer] | None = None
) -> dict[int | str, dict[str, Any]]:
    """A route's description of its answers. streams: the shape of each event of a stream, which
    ends with `[DONE]` or an error.
    """
    described: dict[int | str, dict[str, Any]] = {
        200: {"model": answer, "description": "the answer"}
    }
    if streams is not None:
        done = {"const": "[DONE]", "description": "the last event, unless that is an error"}
        data = {"anyOf": [done, _json_text(streams, ErrorResponse)]}
        described[200]["content"] = _stream_of({"data": data})
    return described | error_responses()


def gives_typed(
    answer: type[Answer], events: Sequence[type[Answer]]
) -> dict[int | str, dict[str, Any]]:
    """The same, with events of several shapes, each with the name of its type."""
    name = {"type": "string", "description": "the type of the event"}
    content = _stream_of({"event": name, "data": _json_text(*events)})
    described: dict[int | str, dict[str, Any]] = {
        200: {"model": answer, "description": "the answer", "content": content}
    }
    return described | error_responses()


def _json_text(*shapes: type[Answer]) -> dict[str, Any]:
    """A schema: the JSON of one of these, as text."""
    references = [{"$ref": _REFERENCE.format(model=shape.__name__)} for shape in shapes]
    return {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": references},
    }


def _stream_of(fields: dict[str, Any]) -> dict[str, Any]:
    """A content: server-sent events of these fields."""
    event = {"type": "object", "properties": fields, "required": list(fields)}
    return {"text/event-stream": {"itemSchema": event}}


def error_responses() -> dict[int | str, dict[str, Any]]:
    """A route's description of its errors."""
    return {status: {"model": ErrorResponse, "description": why} for status, why in _ERRORS.items()}


def describe(app: FastAPI, service: Service, *, keys: bool) -> dict[str, Any]:
    """The document. keys: callers need an API key."""
    document = get_openapi(
        title="Puna",
        version=app.version,
        summary="Language models on this machine, through OpenAI's interface.",
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    described: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (kind, "validation") for kind in DESCRIBED
    ]
    _, bodies = models_json_schema(described, ref_template=_REFERENCE)
    schemas |= bodies["$defs"]
    for operations in document["paths"].values():
        for operation in operations.values():
            # FastAPI's own, for parameters that can be wrong; these cannot
            operation["responses"].pop("422", None)
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path == "/health" else [{"key": []}]
    _settle(document, service.bounds(), list(service.models()))
    return document


def _settle(schema: Any, bounds: Mapping[str, int], models: Sequence[str]) -> None:
    """Put in the numbers and names that the fields refer to."""
    if isinstance(schema, list):
        for part in schema:
            _settle(part, bounds, models)
    if not isinstance(schema, dict):
        return
    if BOUND in schema.get("propertyNames", {}):  # the keys are ids
        ((_, values),) = schema.pop("patternProperties").items()
        schema |= {
            "propertyNames": {"pattern": numbers_up_to(bounds[TOKEN_ID])},
            "additionalProperties": values,
        }
    if isinstance(schema.get(BOUND), str):
        schema[_LENGTHS[schema["type"]]] = bounds[schema.pop(BOUND)]
    if schema.pop(MODEL_NAME, False):
        schema["enum"] = list(models)
    for part in schema.values():
        _settle(part, bounds, models)


def numbers_up_to(most: int) -> str:
    """A regular expression for the decimal numbers from 0 to `most`, without leading zeros."""
    digits = str(most)
    shorter = [f"[1-9][0-9]{{{length - 1}}}" for length in range(1, len(digits))]
    same_length = []
    for index, digit in enumerate(digits):  # equal up to here, smaller here, anything after
        least = 1 if index == 0 else 0
        if int(digit) > least:
            same_length.append(
                f"{digits[:index]}[{least}-{int(digit) - 1}][0-9]{{{len(digits) - index - 1}}}"
            )
    zero = [] if most == 0 else ["0"]
    return f"^({'|'.join([*zero, *shorter, *same_length, digits])})$"
