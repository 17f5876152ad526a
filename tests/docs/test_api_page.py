"""docs/api.md and the README's server: every example runs and prints what is shown, and the tables
say what the code does.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jsonschema
import pytest
from background_loop import BackgroundLoop
from live_server import live_server
from page_examples import Reader, curl, examples, same_kind
from pages import ROOT, codes_in, read_page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from puna.api import (
    chat_messages,
    error_response,
    protocol,
    response_format,
    responses,
    responses_answer,
    responses_items,
    responses_request,
)
from puna.api.fields import BOUND, NoEffect, NotSupported
from puna.api.foreign_fields import FOREIGN_FIELDS
from puna.config import Config
from puna.engine_process.client import EngineClient, Health
from puna.errors import RequestError
from puna.inference.constraint_limits import DEFAULT_LIMITS
from puna.inference.json_schema import read_schema
from puna.inference.request import GenerationOptions
from puna.inference.schema_keywords import DESCRIPTIVE, EXTENSION, FORMATS
from puna.server.http_limits import HttpLimits

PAGE = read_page("docs/api.md")
README = read_page("README.md").section("Serve it")
ENDPOINTS = PAGE.section("API")
SOURCES = [
    path
    for package in ("api", "server")
    for path in (ROOT / "src" / "puna" / package).rglob("*.py")
]

OF: Mapping[str, tuple[type[Config], ...]] = {
    "Of chats and completions": (protocol.GenerationRequest,),
    "Of chats": (protocol.ChatRequest,),
    "Of responses": (responses_request.ResponsesRequest,),
    "Of completions": (protocol.CompletionRequest,),
    "Of embeddings": (protocol.EmbeddingRequest,),
    "Of /tokenize": (protocol.TokenizeTextRequest, protocol.TokenizeChatRequest),
    "Of /detokenize": (protocol.DetokenizeRequest,),
}
"""Whose fields the tables below these headings hold."""

BEFORE: Mapping[type[Config], type[Config]] = {
    protocol.ChatRequest: protocol.GenerationRequest,
    protocol.CompletionRequest: protocol.GenerationRequest,
    responses_request.ResponsesRequest: protocol.SamplingRequest,
}
"""Whose fields these have too, in the first of the tables."""

OPTION = {"ignore_eos": "ignore_end", "stop_token_ids": "stop_ids", "top_logprobs": "logprobs"}
"""The engine's names where they differ."""


@pytest.fixture(scope="module")
def reader(loop: BackgroundLoop, client: EngineClient) -> Iterator[Reader]:
    """One who reads the page beside a server that has its limits."""
    with live_server(loop, client) as url:
        reading = Reader(url)
        yield reading
        reading.close()


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_every_example_prints_what_the_page_shows(page: str, reader: Reader) -> None:
    """As far as that is the same for every model: the shape of JSON, events and lists, and errors
    to the letter.
    """
    shown = list(examples(README if page == "README.md" else PAGE))
    assert shown
    for example in shown:
        printed = reader.output(example)
        if example.shown is not None:
            assert same_kind(example.shown, printed), (
                f"{example.source}\nshows\n{example.shown}\nand prints\n{printed}"
            )


def test_what_the_examples_promise_holds(reader: Reader) -> None:
    """Beyond the shape: constrained answers keep to their form, and the tool is called by its
    name.
    """
    for example in examples(PAGE):
        if (
            "import OpenAI" in example.source
            or "sqrt" in example.source
            or "regex" in example.source
        ):
            reader.output(example)
            if "regex" in example.source:
                assert re.fullmatch("[1-9][0-9]{2}", reader.names["answer"].choices[0].text)
    assert reader.names["call"].function.name == "sqrt"
    assert json.loads(reader.names["call"].function.arguments)["x"] in (4, 9, 16)
    assert (reader.names["item"].type, reader.names["item"].name) == ("function_call", "sqrt")


def test_the_comparison_sees_what_differs() -> None:
    """Of the tests themselves."""
    assert same_kind('{"a": [1], "b": null}', '{"a": [2.5, 3], "b": null}')
    assert not same_kind('{"a": [1]}', '{"a": ["x"]}')
    assert not same_kind('{"a": 1}', '{"a": 1, "b": 1}')
    assert same_kind(
        'data: {"a": 1}\n\ndata: [DONE]', 'data: {"a": 2}\n\ndata: {"a": 3}\n\ndata: [DONE]\n'
    )
    assert not same_kind('data: {"a": 1}\n\ndata: [DONE]', 'data: {"a": 1}\n\ndata: {"error": 1}')
    error = '{"error": {"message": "n: must be at most 16", "code": "invalid_value"}}'
    assert same_kind(error, error.replace("16", "4"))
    assert not same_kind(error, error.replace("most", "least"))
    assert same_kind("['a']\n'b c'", "['b', 'c']\n'd'")
    assert not same_kind("['a']", "[1]")


def test_the_paths_are_those_of_the_server(reader: Reader) -> None:
    document = json.loads(curl(["curl", f"{reader.url}/openapi.json"]))
    served = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    listed = {
        tuple(code.split())
        for cells in ENDPOINTS.rows("path", "does")
        for code in codes_in(cells[0])
    }
    assert listed == served | {("GET", "/openapi.json")}


def supported(kind: type[Config]) -> dict[str, FieldInfo]:
    """The fields that are not marked as unsupported or without effect; of a chat, a completion or a
    response, without those of the table before.
    """
    shared = BEFORE[kind].model_fields if kind in BEFORE else {}
    return {
        name: field
        for name, field in kind.model_fields.items()
        if name not in shared and not reasons(field)
    }


def reasons(
    field: FieldInfo,
    marks: tuple[type[NotSupported] | type[NoEffect], ...] = (NotSupported, NoEffect),
) -> list[str]:
    return [mark.why for mark in field.metadata if isinstance(mark, marks)]


@pytest.mark.parametrize("heading", OF)
def test_every_field_has_its_row(heading: str) -> None:
    """In a table of its class, with the range and the default that the code gives it."""
    fields = {
        name: (kind, field) for kind in OF[heading] for name, field in supported(kind).items()
    }
    found = PAGE.section(heading).rows("field", "takes", "default")
    assert sorted(name for cells in found for name in codes_in(cells[0])) == sorted(fields)
    for first, takes, default, _ in found:
        for name in codes_in(first):
            kind, field = fields[name]
            assert takes == (range_of(kind, name) or takes), f"what {name} takes"
            assert (default == "required") == field.is_required(), f"is {name} required?"
            option = GenerationOptions.model_fields.get(OPTION.get(name, name))
            if (
                option is not None
                and isinstance(option.default, int | float)
                and name != "max_tokens"
            ):
                assert default == json.dumps(option.default).removesuffix(".0"), (
                    f"the default of {name}"
                )


def range_of(kind: type[Config], name: str) -> str | None:
    """What a number or a switch may be, as the tables write it; None for what takes more words."""
    _, schemas = models_json_schema([(kind, "validation")])
    described = schemas["$defs"][kind.__name__]["properties"][name]
    choices = [part for part in described.get("anyOf", [described]) if part != {"type": "null"}]
    schema = choices[0] if len(choices) == 1 else {}
    match schema.get("type"):
        case "boolean":
            return "true, false"
        case "number" | "integer":
            most = (
                getattr(HttpLimits(), schema[BOUND])
                if BOUND in schema
                else schema.get("maximum", schema.get("exclusiveMaximum"))
            )
            largest = (
                f"2^{most.bit_length() - 1} - 1" if "exclusiveMaximum" in schema else f"{most:,}"
            )
            if "exclusiveMinimum" in schema:
                return f"above {schema['exclusiveMinimum']}, to {largest}"
            return f"{schema['minimum']} to {largest}"
        case _:
            return None


def test_lists_have_the_lengths_that_the_tables_say() -> None:
    limits = HttpLimits()
    cells = {
        code: row[1]
        for heading in OF
        for row in PAGE.section(heading).rows("field", "takes")
        for code in codes_in(row[0])
    }
    assert f"up to {limits.stops}" in cells["stop"]
    assert f"up to {limits.stops}" in cells["stop_token_ids"]
    assert f"{limits.logit_bias:,} at most" in cells["logit_bias"]
    assert f"up to {limits.tools}" in cells["tools"]
    assert f"up to {limits.prompts}" in cells["input"]
    assert f"up to {limits.prompt_tokens:,}" in cells["tokens"]


def test_every_field_without_support_is_listed_with_its_reason() -> None:
    kinds = [
        protocol.ChatRequest,
        protocol.CompletionRequest,
        protocol.EmbeddingRequest,
        protocol.StreamOptions,
    ]
    kinds += [
        kind
        for module in (chat_messages, responses_items, responses_request)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Config) and kind is not Config
    ]
    marked = {
        (field.alias or name, taken(field), why)
        for kind in kinds
        for name, field in kind.model_fields.items()
        for why in reasons(field, (NotSupported,))
    }
    found = PAGE.section("Unsupported fields").rows("field", "of", "takes only", "because")
    assert {
        (codes_in(first)[0], frozenset(codes_in(only)), why) for first, _, only, why in found
    } == marked


def test_every_field_without_effect_is_listed_with_its_reason() -> None:
    kinds = (
        protocol.ChatRequest,
        responses_request.ResponsesRequest,
        responses_request.TextOptions,
        responses_request.ReasoningOptions,
    )
    marked = {
        (name, why)
        for kind in kinds
        for name, field in kind.model_fields.items()
        for why in reasons(field, (NoEffect,))
    }
    found = PAGE.section("Fields without effect").rows("field", "of", "takes", "because")
    assert {(codes_in(first)[0], why.replace("`", "")) for first, _, _, why in found} == {
        (name, why.replace("`", "")) for name, why in marked
    }


def test_fields_of_other_servers_are_listed_with_ours() -> None:
    found = PAGE.section("Unsupported fields").rows("field", "Puna's")
    assert {name: ours for cells, ours in found for name in codes_in(cells)} == FOREIGN_FIELDS


def taken(field: FieldInfo) -> frozenset[str]:
    """The values besides null, as JSON."""
    if get_origin(field.annotation) is Literal or not any(
        get_origin(part) for part in get_args(field.annotation)
    ):
        return frozenset(map(json.dumps, literals(field.annotation)))
    (listed,) = [part for part in get_args(field.annotation) if part is not type(None)]
    values = list(map(json.dumps, literals(listed)))
    return frozenset(values if get_origin(listed) is Literal else [f"[{', '.join(values)}]"])


def literals(kind: Any) -> list[Any]:
    return (
        list(get_args(kind))
        if get_origin(kind) is Literal
        else [value for part in get_args(kind) for value in literals(part)]
    )


def test_messages_formats_and_choices_are_those_of_the_code() -> None:
    roles = {
        role: {
            name
            for name, field in kind.model_fields.items()
            if name != "role" and not reasons(field)
        }
        for kind in (
            chat_messages.SystemMessage,
            chat_messages.UserMessage,
            chat_messages.AssistantMessage,
            chat_messages.ToolMessage,
        )
        for role in literals(kind.model_fields["role"].annotation)
    }
    shown = {
        role: set(codes_in(cells[1]))
        for cells in PAGE.section("Messages").rows("`role`", "fields")
        for role in codes_in(cells[0])
    }
    assert shown == roles
    written = PAGE.section("Messages").codes
    for kind in (
        chat_messages.CalledTool,
        chat_messages.CalledFunction,
        chat_messages.Tool,
        chat_messages.Function,
    ):
        assert set(kind.model_fields) <= set(written), (
            f"the section on messages leaves out a field of {kind.__name__}"
        )
    kinds = {
        codes_in(cells[0])[0]: set(codes_in(cells[1]))
        for cells in PAGE.section("Constrained output").rows("`type`", "and")
    }
    expected = {
        literals(kind.model_fields["type"].annotation)[0]: kind
        for kind in get_args(get_args(response_format.ResponseFormat)[0])
    }
    assert kinds.keys() == expected.keys()
    named = {
        field.alias or name for name, field in response_format.NamedSchema.model_fields.items()
    }
    for name, kind in expected.items():
        assert kinds[name] == (set(kind.model_fields) - {"type"}) | (
            named if name == "json_schema" else set()
        )
    choices = {
        codes_in(cells[0])[0] for cells in PAGE.section("Tools").rows("`tool_choice`", "the answer")
    }
    assert {choice for choice in choices if not choice.startswith("{")} == set(
        literals(get_args(chat_messages.ToolChoice)[0])
    )


def test_the_keywords_of_schemas_are_those_that_are_enforced() -> None:
    """Of all that draft 2020-12 checks, those listed and no others."""
    paragraph = next(
        part for part in PAGE.text.split("\n\n") if part.startswith("Enforced of JSON Schema")
    )
    assert set(codes_in(paragraph.partition(". Titles")[0])) == {
        keyword for keyword in jsonschema.Draft202012Validator.VALIDATORS if is_enforced(keyword)
    }


def test_the_annotations_and_formats_of_schemas_are_those_of_the_code() -> None:
    passage = PAGE.text.partition(". Titles")[2].partition("Any other keyword")[0]
    assert sorted(codes_in(passage.replace("\n", " "))) == sorted(
        [*DESCRIPTIVE, EXTENSION, *FORMATS]
    )


def is_enforced(keyword: str) -> bool:
    try:
        read_schema(json.dumps({keyword: None}), DEFAULT_LIMITS)
    except RequestError as error:
        return f"`{keyword}` is not enforced" not in str(error)
    return True


def test_every_field_of_an_answer_is_shown() -> None:
    """In an example, or by its name."""
    kinds = [
        kind
        for module in (responses, responses_answer, error_response)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    text = PAGE.text + read_page("docs/serving.md").section("Health").text
    unshown = {
        name
        for kind in kinds
        for name in kind.model_fields
        if not re.search(rf"`{name}`|\"{name}\"|[.]{name}\b", text)
    }
    assert not unshown, f"docs/api.md shows nowhere {', '.join(sorted(unshown))}"


def test_every_code_of_an_error_is_listed_with_its_status() -> None:
    listed = {
        (cells[0], code)
        for cells in PAGE.section("Errors").rows("status", "`code`")
        for code in codes_in(cells[1])
    }
    states = {
        ("503", state) for state in get_args(get_type_hints(Health)["status"]) if state != "ok"
    }
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert {*refusals(), *states} <= listed
    assert not [code for _, code in listed - states if f'"{code}"' not in source]


def refusals() -> Iterator[tuple[str, str]]:
    """(status, code) of every call and tuple in src/puna/server that spells out both."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts: list[ast.expr] = []
            if isinstance(node, ast.Call):
                parts = [*node.args, *(word.value for word in node.keywords if word.arg == "code")]
            elif isinstance(node, ast.Tuple):
                parts = node.elts
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            status = [value for value in values if isinstance(value, int) and 400 <= value < 600]
            words = [
                value
                for value in values
                if isinstance(value, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+|timeout", value)
            ]
            if status and words:
                yield str(status[0]), words[-1]
