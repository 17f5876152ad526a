"""Bodies of requests: every field of OpenAI's client is known, what is not supported is rejected by
name.
"""

import re
import types
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import (
    chat_completion_assistant_message_param,
    chat_completion_content_part_text_param,
    chat_completion_developer_message_param,
    chat_completion_function_tool_param,
    chat_completion_stream_options_param,
    chat_completion_system_message_param,
    chat_completion_tool_message_param,
    chat_completion_user_message_param,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)
from openai.types.responses import (
    function_tool_param,
    response_create_params,
    response_format_text_json_schema_config_param,
    response_text_config_param,
    tool_choice_function_param,
)
from openai.types.shared_params import Reasoning, function_definition
from openai.types.shared_params.response_format_json_schema import JSONSchema
from pydantic import ValidationError

from puna.api.chat_messages import (
    AssistantMessage,
    Function,
    HistoryPart,
    SystemMessage,
    TextPart,
    Tool,
    ToolMessage,
    UserMessage,
    as_turns,
)
from puna.api.cross_field_rules import broken_rule
from puna.api.error_response import ApiError
from puna.api.fields import NoEffect, NotSupported
from puna.api.foreign_fields import FOREIGN_FIELDS
from puna.api.generation import generation_options, most_tokens
from puna.api.json_body import field_error
from puna.api.limits import Limits
from puna.api.openapi import numbers_up_to
from puna.api.protocol import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    StreamOptions,
)
from puna.api.response_format import NamedSchema
from puna.api.responses_request import (
    FlatSchemaFormat,
    FunctionChoice,
    FunctionTool,
    PaddingOptions,
    ReasoningOptions,
    ResponsesRequest,
    TextOptions,
)
from puna.config import Config
from puna.tokenizer import chat_template

BOUNDS = {**Limits().model_dump(), "token_id": 4999, "messages": 500}
USER = {"role": "user", "content": "Hello"}
LEAST: Mapping[type[Config], dict[str, Any]] = {
    ChatRequest: {"model": "m", "messages": [USER]},
    CompletionRequest: {"model": "m", "prompt": "x"},
    EmbeddingRequest: {"model": "m", "input": "x"},
    UserMessage: {"role": "user", "content": "x"},
    SystemMessage: {"role": "system", "content": "x"},
    AssistantMessage: {"role": "assistant", "content": "x"},
    ToolMessage: {"role": "tool", "content": "x", "tool_call_id": "1"},
    TextPart: {"type": "text", "text": "x"},
    StreamOptions: {},
    Tool: {"type": "function", "function": {"name": "f"}},
    Function: {"name": "f"},
    NamedSchema: {"name": "f"},
    ResponsesRequest: {"model": "m", "input": "x"},
    PaddingOptions: {},
    ReasoningOptions: {},
    TextOptions: {},
    FunctionTool: {"type": "function", "name": "f"},
    FunctionChoice: {"type": "function", "name": "f"},
    FlatSchemaFormat: {"type": "json_schema", "name": "f", "schema": {}},
}
THEIRS: Mapping[type[Config], tuple[type, ...]] = {
    ChatRequest: (
        chat_create_params.CompletionCreateParamsStreaming,
        chat_create_params.CompletionCreateParamsNonStreaming,
    ),
    CompletionRequest: (
        completion_create_params.CompletionCreateParamsStreaming,
        completion_create_params.CompletionCreateParamsNonStreaming,
    ),
    EmbeddingRequest: (embedding_create_params.EmbeddingCreateParams,),
    UserMessage: (chat_completion_user_message_param.ChatCompletionUserMessageParam,),
    SystemMessage: (
        chat_completion_system_message_param.ChatCompletionSystemMessageParam,
        chat_completion_developer_message_param.ChatCompletionDeveloperMessageParam,
    ),
    AssistantMessage: (
        chat_completion_assistant_message_param.ChatCompletionAssistantMessageParam,
    ),
    ToolMessage: (chat_completion_tool_message_param.ChatCompletionToolMessageParam,),
    TextPart: (chat_completion_content_part_text_param.ChatCompletionContentPartTextParam,),
    StreamOptions: (chat_completion_stream_options_param.ChatCompletionStreamOptionsParam,),
    Tool: (chat_completion_function_tool_param.ChatCompletionFunctionToolParam,),
    Function: (function_definition.FunctionDefinition,),
    NamedSchema: (JSONSchema,),
    ResponsesRequest: (
        response_create_params.ResponseCreateParamsStreaming,
        response_create_params.ResponseCreateParamsNonStreaming,
    ),
    PaddingOptions: (response_create_params.StreamOptions,),
    ReasoningOptions: (Reasoning,),
    TextOptions: (response_text_config_param.ResponseTextConfigParam,),
    FunctionTool: (function_tool_param.FunctionToolParam,),
    FunctionChoice: (tool_choice_function_param.ToolChoiceFunctionParam,),
    FlatSchemaFormat: (
        response_format_text_json_schema_config_param.ResponseFormatTextJSONSchemaConfigParam,
    ),
}


def check(kind: type[Config], values: Any) -> Config:
    """The values as a `kind`; ApiError if they are not."""
    try:
        return kind.model_validate(values, context={"most": BOUNDS})
    except ValidationError as error:
        raise field_error(error, values) from None


def rejected(kind: type[Config], **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check(kind, {**LEAST[kind], **more})
    assert caught.value.status == 400
    return caught.value


PASSED_OVER: Mapping[type[Config], frozenset[str]] = {
    AssistantMessage: frozenset({"annotations"}),
    TextPart: frozenset({"prompt_cache_breakpoint"}),
}
"""OpenAI's own keys of a history that are treated like unknown ones."""


@pytest.mark.parametrize("kind", THEIRS)
def test_every_field_of_the_openai_client_is_known(kind: type[Config]) -> None:
    ours = {field.alias or name for name, field in kind.model_fields.items()}
    theirs = {
        name for params in THEIRS[kind] for name in get_type_hints(params, include_extras=True)
    }
    passed_over = PASSED_OVER.get(kind, frozenset())
    assert not passed_over & ours
    assert theirs <= ours | passed_over, f"decide what becomes of {sorted(theirs - ours)}"


NOT_SUPPORTED = [
    (kind, name)
    for kind in LEAST
    for name, field in kind.model_fields.items()
    if any(isinstance(mark, NotSupported) for mark in field.metadata)
]


def harmless(annotation: Any) -> list[Any]:
    """The values that a field without support takes."""
    if annotation is None or annotation is type(None):
        return [None]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is types.UnionType or str(get_origin(annotation)) == "typing.Union":
        return [value for part in get_args(annotation) for value in harmless(part)]
    return []


@pytest.mark.parametrize(("kind", "name"), NOT_SUPPORTED)
def test_an_unsupported_field_takes_what_changes_nothing_and_rejects_the_rest_by_name(
    kind: type[Config], name: str
) -> None:
    field = kind.model_fields[name]
    accepted, name = harmless(field.annotation), field.alias or name
    assert accepted
    for value in accepted:
        check(kind, {**LEAST[kind], name: value})
    for value in (None, True, 0, 1, 2, 0.5, "x", "high", ["x"], {"x": 1}):
        if not any(type(value) is type(other) and value == other for other in accepted):
            error = rejected(kind, **{name: value})
            assert (error.param, error.code) == (name, "unsupported_field")
            assert str(error).startswith(f"{name}: is not supported: ")


def test_there_are_fields_without_support() -> None:
    """The test above is not empty, and the wrapped lists are covered by hand."""
    assert len(NOT_SUPPORTED) >= 15
    assert check(ChatRequest, {**LEAST[ChatRequest], "modalities": ["text"]})
    assert rejected(ChatRequest, modalities=["text", "audio"]).param == "modalities"


@pytest.mark.parametrize("kind", [kind for kind in LEAST if not issubclass(kind, HistoryPart)])
def test_an_unknown_field_is_rejected_by_name(kind: type[Config]) -> None:
    error = rejected(kind, no_such_field=1)
    assert (error.param, error.code) == ("no_such_field", "unsupported_field")
    assert str(error) == "no_such_field: there is no such field"


@pytest.mark.parametrize(("foreign", "instead"), FOREIGN_FIELDS.items())
def test_a_field_of_another_server_is_rejected_with_the_name_of_ours(
    foreign: str, instead: str
) -> None:
    error = rejected(CompletionRequest, **{foreign: 1})
    assert (error.param, error.code) == (foreign, "unsupported_field")
    assert str(error) == (
        f"{foreign}: there is no such field; chats and completions have {instead}"
    )
    assert re.findall("`(.+?)`", instead)[0] in CompletionRequest.model_fields
    assert foreign not in CompletionRequest.model_fields | ChatRequest.model_fields


# Messages as clients send them back: the last is the whole of what a client adds
HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief.", "name": "critic"},
    {"role": "user", "content": "x", "name": "Ann", "metadata": {"a": 1}},
    {
        "role": "user",
        "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
    },
    {
        "role": "user",
        "content": [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "x"}}],
    },
    {"role": "assistant", "content": "x", "parsed": {"a": 1}, "annotations": [{"type": "url"}]},
    {"role": "assistant", "content": "x", "tool_calls": [], "reasoning_content": "thought"},
    {"role": "assistant", "content": "x", "provider_specific_fields": {"refusal": None}},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "index": 0,
                "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}},
            }
        ],
    },
]


@pytest.mark.parametrize("message", HISTORY, ids=lambda message: "-".join(message))
def test_unknown_keys_of_a_history_are_passed_over(message: dict[str, Any]) -> None:
    """Seven clients of eleven send back what they were answered with one key more."""
    values = {"model": "m", "messages": [USER, message]}
    body = check(ChatRequest, values)
    assert isinstance(body, ChatRequest)
    assert broken_rule(ChatRequest.rules, values) is None
    (turn,) = as_turns(body.messages[1:])
    called = [chat_template.ToolCall("f", {}, "1")] if message.get("tool_calls") else []
    assert list(turn.tool_calls) == called
    assert turn.content == ("" if called else "Be brief." if message["role"] == "system" else "x")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages[0].content"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content"),
    ],
)
def test_a_message_of_nothing_is_still_rejected(message: dict[str, Any], param: str) -> None:
    broken = broken_rule(ChatRequest.rules, {"model": "m", "messages": [message]})
    assert broken is not None
    assert broken[0] == param


NO_EFFECT = {
    name
    for name, field in ChatRequest.model_fields.items()
    if any(isinstance(mark, NoEffect) for mark in field.metadata)
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (ChatRequest, {"metadata": {"run": "7", "more": 1}}),
        (ChatRequest, {"store": True}),
        (ChatRequest, {"store": False}),
        *((ChatRequest, {"reasoning_effort": effort}) for effort in ("none", "low", "xhigh")),
        *((ChatRequest, {"verbosity": degree}) for degree in ("low", "high")),
        *((ChatRequest, {"service_tier": tier}) for tier in ("auto", "flex", "priority")),
        (ChatRequest, {"prompt_cache_retention": "24h"}),
        (CompletionRequest, {"best_of": 1}),
        (CompletionRequest, {"best_of": 3, "n": 3}),
        (CompletionRequest, {"suffix": ""}),
        (EmbeddingRequest, {"dimensions": 32}),
        *(
            (kind, more)
            for kind in (ChatRequest, CompletionRequest)
            for more in (
                {"seed": -1},
                {"top_p": 0},
                {"top_k": -1},
                {"top_k": 0},
                {"max_tokens": -1},
                {"max_tokens": 10**9},
                {"max_tokens": 2**63 - 1},
                {"stop": []},
                {"stop": ""},
                {"stop": [""]},
                {"n": 128},
            )
        ),
    ],
)
def test_values_that_change_nothing_are_taken(kind: type[Any], more: dict[str, Any]) -> None:
    values = {**LEAST[kind], **more}
    check(kind, values)
    assert broken_rule(kind.rules, values) is None


def test_fields_without_effect_are_those_that_the_test_above_gives_values_to() -> None:
    assert {
        "metadata",
        "store",
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "prompt_cache_retention",
    } == NO_EFFECT
    for name in NO_EFFECT:
        assert rejected(ChatRequest, **{name: 0.5}).param == name, "a value of another type"


def test_values_that_change_nothing_reach_the_engine_as_its_defaults() -> None:
    model = cast("Any", SimpleNamespace(adapter=None, defaults={}))
    least, same = (
        generation_options(body, model, max_tokens=5, logprobs=None, constraint=None)
        for body in (
            cast(
                "GenerationRequest", check(CompletionRequest, {**LEAST[CompletionRequest], **more})
            )
            for more in ({}, {"seed": -1, "top_k": 0, "stop": [""], "n": 1})
        )
    )
    assert same == least
    body = check(ChatRequest, {**LEAST[ChatRequest], "top_k": -1, "top_p": 0, "stop": ["", "a"]})
    options = generation_options(
        cast("GenerationRequest", body), model, max_tokens=5, logprobs=None, constraint=None
    )
    assert (options.top_k, options.stop) == (None, ("a",))
    assert 0 < options.top_p < 1e-30, "no token but the likeliest is needed to reach it"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((), 70),
        ((None,), 70),
        ((-1,), 70),
        ((-1, 5), 5),
        ((7, 5), 5),
        ((0,), 0),
        ((10**18,), 70),
    ],
)
def test_tokens_at_most_are_cut_to_the_room_that_there_is(
    asked: tuple[int | None, ...], expected: int
) -> None:
    assert most_tokens(70, Limits(), *asked) == expected
    assert most_tokens(100, Limits(output_tokens=70), *asked) == expected


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}
                ]
            },
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages[0].name"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        ({"response_format": {"type": "regex", "regex": ""}}, "response_format.regex"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"seed": -2}, "seed"),
        ({"top_k": -2}, "top_k"),
        ({"n": 129}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"5000": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"logit_bias": {str(key): 1 for key in range(1025)}}, "logit_bias"),
        ({"stop_token_ids": [5000]}, "stop_token_ids"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"user": 5}, "user"),
    ],
)
def test_a_wrong_value_is_a_400_that_names_its_place(more: dict[str, Any], param: str) -> None:
    assert rejected(ChatRequest, **more).param == param


@pytest.mark.parametrize("prompt", ["", "x", ["x", ""], [0, 4999], [[1], [2, 3]], None])
def test_prompts_may_be_texts_or_ids(prompt: Any) -> None:
    assert check(CompletionRequest, {"model": "m", "prompt": prompt})


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (5, "prompt"),
        ({"a": "x"}, "prompt"),
        ([], "prompt"),
        ([[]], "prompt[0]"),
        ([1, "x"], "prompt[1]"),
        (["x", 1], "prompt[1]"),
        ([True], "prompt[0]"),
        ([5000], "prompt"),
        ([[1], [5000]], "prompt[1]"),
        ([[1], [-1]], "prompt[1][0]"),
        (["x"] * 257, "prompt"),
    ],
)
def test_other_prompts_are_rejected(prompt: Any, param: str) -> None:
    assert rejected(CompletionRequest, prompt=prompt).param == param


CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream_options": {}}, "stream_options"),
        ({"stream_options": {}, "stream": False}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": TOOLS * 2}, "tools"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"tools": TOOLS, "messages": [{"role": "assistant", "content": "x"}]}, "tools"),
        (
            {"tools": [{**TOOLS[0], "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters.type",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 1}, "max_completion_tokens"),
        ({"tools": TOOLS, "response_format": {"type": "regex", "regex": "a"}}, "response_format"),
        ({"tools": TOOLS, "tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
                "min_tokens": 1,
            },
            "min_tokens",
        ),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 1}, "min_tokens"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content"),
        (
            {"messages": [USER, {"role": "tool", "content": "x", "tool_call_id": "1"}]},
            "messages[1].tool_call_id",
        ),
        (
            {"messages": [USER, CALL, {"role": "tool", "content": "x", "tool_call_id": "2"}]},
            "messages[2].tool_call_id",
        ),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named(more: dict[str, Any], param: str) -> None:
    body = check(ChatRequest, {**LEAST[ChatRequest], **more})
    assert isinstance(body, ChatRequest)
    broken = broken_rule(ChatRequest.rules, {**LEAST[ChatRequest], **more})
    assert broken is not None
    assert broken[0] == param


@pytest.mark.parametrize(
    "more",
    [
        {"stream_options": {"include_usage": True}, "stream": True},
        {"top_logprobs": 2, "logprobs": True},
        {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
        {
            "tools": TOOLS,
            "tool_choice": "none",
            "response_format": {"type": "regex", "regex": "a"},
            "parallel_tool_calls": False,
        },
        {"response_format": {"type": "text"}, "ignore_eos": True, "min_tokens": 3},
        {"messages": [USER, CALL, {"role": "tool", "content": "x", "tool_call_id": "1"}]},
        {"tools": TOOLS, "messages": [{"role": "system", "content": "x"}]},
        {"tools": TOOLS, "messages": [{"role": "developer", "content": "x"}]},
    ],
)
def test_fields_that_fit_each_other_are_taken(more: dict[str, Any]) -> None:
    body = check(ChatRequest, {**LEAST[ChatRequest], **more})
    assert isinstance(body, ChatRequest)
    assert broken_rule(ChatRequest.rules, {**LEAST[ChatRequest], **more}) is None


@pytest.mark.parametrize(("n", "best_of"), [(1, 2), (3, 2), (3, 4), (None, 2)])
def test_more_than_n_is_not_generated(n: int | None, best_of: int) -> None:
    values = {"model": "m", "prompt": "x", "n": n, "best_of": best_of}
    broken = broken_rule(CompletionRequest.rules, values)
    assert broken is not None
    assert broken[0] == "best_of"
    assert f"is {best_of} with n = {n or 1}" in broken[1]


def test_messages_become_turns() -> None:
    body = check(
        ChatRequest,
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a":  [1, "ü"]}'},
                        },
                        {
                            "id": "2",
                            "type": "function",
                            "function": {"name": "g", "arguments": '{"half'},
                        },
                        {
                            "id": "3",
                            "type": "function",
                            "function": {"name": "h", "arguments": '{"a": NaN}'},
                        },
                    ],
                },
                {"role": "tool", "content": "4", "tool_call_id": "1"},
            ],
        },
    )
    assert isinstance(body, ChatRequest)
    called = (
        chat_template.ToolCall("f", {"a": [1, "ü"]}, "1"),
        chat_template.ToolCall("g", '{"half', "2"),
        chat_template.ToolCall("h", '{"a": NaN}', "3"),
    )
    assert as_turns(body.messages) == [
        chat_template.Message("system", "Be brief."),
        chat_template.Message("user", "a\nb"),
        chat_template.Message("assistant", "", called),
        chat_template.Message("tool", "4", call_id="1"),
    ]


def test_a_tool_is_described_without_what_the_model_need_not_know() -> None:
    tool = check(
        Tool,
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": None,
                "parameters": {"a": None},
                "strict": True,
            },
        },
    )
    assert isinstance(tool, Tool)
    assert tool.described() == {
        "type": "function",
        "function": {"name": "f", "parameters": {"a": None}},
    }


@given(most=st.integers(0, 200_000), number=st.integers(0, 250_000))
def test_numbers_as_a_regular_expression(most: int, number: int) -> None:
    pattern = numbers_up_to(most)
    assert bool(re.search(pattern, str(number))) == (number <= most)
    assert not re.search(pattern, f"0{number}")
    assert re.search(pattern, str(most))
    assert not re.search(pattern, str(most + 1))
