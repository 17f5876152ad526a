"""Every number of every request: below its least, above its most, or of another type is a 400 that
names it.

The fields are those of the models, found by walking their JSON schemas, so a new one is tested from
its first day.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from puna.api.fields import BOUND
from puna.api.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from puna.api.responses_request import ResponsesRequest

HELLO = [{"role": "user", "content": "Hello"}]
ENDPOINTS: Mapping[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/chat/completions": (ChatRequest, {"model": "noise", "messages": HELLO, "max_tokens": 1}),
    "/v1/responses": (
        ResponsesRequest,
        {"model": "noise", "input": "Hello", "max_output_tokens": 1},
    ),
    "/v1/completions": (CompletionRequest, {"model": "noise", "prompt": "x", "max_tokens": 1}),
    "/v1/embeddings": (EmbeddingRequest, {"model": "noise", "input": "x"}),
    "/tokenize": (TokenizeTextRequest, {"model": "noise", "prompt": "x"}),
    "/tokenize of a chat": (TokenizeChatRequest, {"model": "noise", "messages": HELLO}),
    "/detokenize": (DetokenizeRequest, {"model": "noise", "tokens": [5]}),
}
Path = tuple[str | int, ...]
FAR_OUT = (-1e308, 1e308, -(2**63), 2**63, 10**30, -(10**30))
OF_ANOTHER_TYPE = (True, False, "1", "", [1], {"a": 1})


def numbers(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], path: Path = ()
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Where numbers stand, and the schema of each: first entries of lists, and the key "5" of
    mappings.
    """
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from numbers(choice, definitions, path)
    if schema.get("type") in ("integer", "number") and "const" not in schema:
        yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from numbers(field, definitions, (*path, name))
    if "items" in schema:
        yield from numbers(schema["items"], definitions, (*path, 0))
    for values in schema.get("patternProperties", {}).values():
        yield from numbers(values, definitions, (*path, "5"))


CASES = [
    pytest.param(endpoint, path, schema, id=f"{endpoint}-{'.'.join(map(str, path))}")
    for endpoint, (kind, _) in ENDPOINTS.items()
    for path, schema in numbers(kind.model_json_schema(), kind.model_json_schema().get("$defs", {}))
]


def with_value(body: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """The body with the value at this place."""
    for step in reversed(path[1:]):
        value = [value] if isinstance(step, int) else {step: value}
    return {**body, str(path[0]): value}


def wrong_values(schema: Mapping[str, Any], path: Path) -> list[Any]:
    lists_are_right = path[-1] == 0  # as prompt, which may be a list of ids or of lists of ids
    wrong = [
        value
        for value in (*FAR_OUT, *OF_ANOTHER_TYPE)
        if not (lists_are_right and isinstance(value, str | list))
    ]
    if "minimum" in schema:
        wrong.append(schema["minimum"] - 1)
    if "exclusiveMinimum" in schema:
        wrong.append(schema["exclusiveMinimum"])
    if "maximum" in schema:
        wrong.append(schema["maximum"] + 1)
    if "exclusiveMaximum" in schema:
        wrong.append(schema["exclusiveMaximum"])
    if schema["type"] == "integer":
        wrong += [1.5, 1e400 if math.isinf(1e400) else 1e308]
    return [value for value in wrong if not (isinstance(value, float) and math.isinf(value))]


def test_the_walk_finds_numbers() -> None:
    found = {(endpoint, path) for endpoint, path, _ in (case.values for case in CASES)}
    for name in (
        "temperature",
        "top_p",
        "n",
        "seed",
        "max_tokens",
        "top_k",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "min_tokens",
    ):
        assert ("/v1/chat/completions", (name,)) in found
        assert ("/v1/completions", (name,)) in found
    assert ("/v1/responses", ("max_output_tokens",)) in found
    assert ("/v1/completions", ("logit_bias", "5")) in found
    assert ("/v1/completions", ("prompt", 0, 0)) in found
    assert ("/v1/embeddings", ("input", 0)) in found
    assert ("/detokenize", ("tokens", 0)) in found
    assert len(CASES) >= 35


@pytest.mark.parametrize(("endpoint", "path", "schema"), CASES)
def test_a_number_out_of_range_or_of_another_type_is_rejected_by_name(
    http: httpx.Client, endpoint: str, path: Path, schema: Mapping[str, Any]
) -> None:
    assert "maximum" in schema or "exclusiveMaximum" in schema or BOUND in schema, (
        "a number without an upper bound"
    )
    assert "minimum" in schema or "exclusiveMinimum" in schema, "a number without a lower bound"
    _, body = ENDPOINTS[endpoint]
    for value in wrong_values(schema, path):
        answer = http.post(endpoint.partition(" ")[0], json=with_value(body, path, value))
        assert answer.status_code == 400, f"{value!r} was taken: {answer.text}"
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert str(error["param"]).startswith(str(path[0])), f"{value!r}: {error}"
        assert str(error["message"]).startswith(str(path[0]))


@pytest.mark.parametrize(
    "written",
    ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" * 5000, "0x10", "1.", ".5", "+1", "01"],
)
def test_what_is_no_number_in_json_is_a_400(http: httpx.Client, written: str) -> None:
    body = '{"model": "noise", "prompt": "x", "temperature": ' + written + "}"
    answer = http.post(
        "/v1/completions", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_least_request_is_answered(http: httpx.Client, endpoint: str) -> None:
    """What the tests above change one value of is right without the change."""
    assert http.post(endpoint.partition(" ")[0], json=ENDPOINTS[endpoint][1]).status_code == 200
