"""Bodies of /v1/responses: the chat that they ask for, and wrong ones by the name of the field."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from puna.api.chat_messages import NamedTool, as_turns
from puna.api.cross_field_rules import broken_rule
from puna.api.error_response import ApiError
from puna.api.json_body import field_error
from puna.api.limits import Limits
from puna.api.protocol import SamplingRequest
from puna.api.responses_request import ResponsesRequest
from puna.inference.request import Constraint
from puna.tokenizer.chat_template import Message, ToolCall

BOUNDS = {**Limits().model_dump(), "token_id": 4999, "messages": 50}
USER = {"role": "user", "content": "Hello"}
FUNCTION = {"type": "function", "name": "f"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "2"}


def check(**more: Any) -> ResponsesRequest:
    values = {"model": "m", "input": "Hello", **more}
    try:
        body = ResponsesRequest.model_validate(values, context={"most": BOUNDS})
    except ValidationError as error:
        raise field_error(error, values) from None
    broken = broken_rule(ResponsesRequest.rules, values)
    if broken is not None:
        raise ApiError(400, ": ".join(broken), param=broken[0])
    return body


def turns(**more: Any) -> list[Message]:
    return as_turns(check(**more).chat().messages)


def test_a_text_is_the_words_of_a_user() -> None:
    assert turns() == [Message("user", "Hello")]
    assert turns(instructions="Be brief") == [
        Message("system", "Be brief"),
        Message("user", "Hello"),
    ]


def test_items_become_messages() -> None:
    said = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "One", "annotations": [], "logprobs": []}],
    }
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b", "x": {}}]
    given = [
        {"role": "developer", "content": "Count"},
        {"type": "message", "role": "user", "content": parts},
        said,
        {"role": "assistant", "content": "Two", "phase": None},
    ]
    assert turns(input=given) == [
        Message("system", "Count"),
        Message("user", "a\nb"),
        Message("assistant", "One"),
        Message("assistant", "Two"),
    ]


def test_calls_belong_to_the_assistants_message_before_them() -> None:
    first, second = ToolCall("f", {"a": 1}, "1"), ToolCall("f", {"a": 1}, "2")
    other = {**CALL, "call_id": "2", "id": "fc_2", "status": "completed"}
    parts = [{"type": "input_text", "text": "3"}, {"type": "input_text", "text": "4"}]
    answers = [OUTPUT, {**OUTPUT, "call_id": "2", "output": parts}]
    words = {"role": "assistant", "content": "Let me see"}
    assert turns(input=[USER, words, CALL, other, *answers, CALL, OUTPUT, words]) == [
        Message("user", "Hello"),
        Message("assistant", "Let me see", (first, second)),
        Message("tool", "2", call_id="1"),
        Message("tool", "3\n4", call_id="2"),
        Message("assistant", "", (first,)),
        Message("tool", "2", call_id="1"),
        Message("assistant", "Let me see"),
    ]


def test_fields_become_those_of_a_chat() -> None:
    schema = {"type": "object", "properties": {}}
    chat = check(
        max_output_tokens=7,
        parallel_tool_calls=False,
        tools=[{**FUNCTION, "description": "does", "parameters": schema, "strict": None}],
        tool_choice=FUNCTION,
        seed=3,
        top_k=4,
        temperature=0.5,
    ).chat()
    assert (chat.max_completion_tokens, chat.parallel_tool_calls, chat.seed, chat.top_k) == (
        7,
        False,
        3,
        4,
    )
    assert [tool.described() for tool in chat.callable_tools] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does", "parameters": schema},
        }
    ]
    assert isinstance(chat.tool_choice, NamedTool)
    assert chat.must_call
    assert {name: getattr(chat, name) for name in SamplingRequest.model_fields} == {
        name: getattr(check(seed=3, top_k=4, temperature=0.5), name)
        for name in SamplingRequest.model_fields
    }


@pytest.mark.parametrize(
    ("format_", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"enum": [1]}, "strict": True},
            {"enum": [1]},
        ),
    ],
)
def test_the_form_of_the_text_is_a_constraint(format_: Any, schema: Any) -> None:
    chat = check(text={"format": format_}).chat()
    expected = None if schema is None else Constraint(kind="json_schema", text=json.dumps(schema))
    assert chat.constraint() == expected
    assert chat.constrained_by == (None if schema is None else "text.format")


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning": {"effort": "high", "mode": "pro"}, "text": {"verbosity": "low"}},
        {"service_tier": "flex", "prompt_cache_retention": "24h", "max_output_tokens": 10**9},
        {"tools": [FUNCTION], "input": [{"role": "system", "content": "x"}]},
        {
            "tools": [FUNCTION],
            "instructions": "x",
            "input": [{"role": "assistant", "content": "x"}],
        },
    ],
)
def test_values_that_change_nothing_are_taken(more: dict[str, Any]) -> None:
    assert check(**more).chat().messages


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, (False, None)),
        ({"top_logprobs": 0}, (False, 0)),
        ({"top_logprobs": 3}, (True, 3)),
        ({"include": ["message.output_text.logprobs"]}, (True, None)),
        ({"include": ["reasoning.encrypted_content"]}, (False, None)),
    ],
)
def test_either_field_asks_for_logprobs(more: dict[str, Any], asked: Any) -> None:
    chat = check(**more).chat()
    assert (chat.logprobs, chat.top_logprobs) == asked


def test_the_answer_repeats_the_request() -> None:
    format_ = {"type": "json_schema", "name": "n", "schema": {"enum": [1]}}
    told = check(
        text={"format": format_}, tools=[FUNCTION], tool_choice=FUNCTION, metadata={"a": "b"}
    ).repeated({})
    assert told["text"] == {"format": format_, "verbosity": "medium"}
    assert told["tool_choice"] == FUNCTION
    assert told["tools"] == [{**FUNCTION, "description": None, "parameters": None, "strict": False}]
    assert (told["metadata"], told["parallel_tool_calls"]) == ({"a": "b"}, True)
    default = check().repeated({})
    assert (default["text"]["format"], default["tool_choice"]) == ({"type": "text"}, "auto")
    assert (default["temperature"], default["top_p"], default["tools"]) == (1, 1, [])


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": None}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [USER] * 51}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"input": [USER, {"type": "reasoning", "id": "r", "summary": []}]}, "input[1].type"),
        ({"input": [USER, {"type": "web_search_call", "id": "w"}]}, "input[1].type"),
        ({"input": [USER, {"type": "item_reference", "id": "r"}]}, "input[1].type"),
        (
            {"input": [USER, {"type": "function_call", "call_id": "1", "name": "f"}]},
            "input[1].arguments",
        ),
        ({"input": [USER, OUTPUT]}, "input[1].call_id"),
        ({"input": [USER, OUTPUT, CALL]}, "input[1].call_id"),
        ({"instructions": [USER]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools"),
        ({"tools": [FUNCTION], "input": [{"role": "assistant", "content": "x"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}, "tool_choice"),
        ({"tool_choice": {"type": "web_search_preview"}, "tools": [FUNCTION]}, "tool_choice.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"tools": [{**FUNCTION, "parameters": {"type": "string"}}]}, "tools[0].parameters.type"),
        ({"include": ["everything"]}, "include[0]"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(key): "x" for key in range(17)}}, "metadata"),
        ({"truncation": "middle"}, "truncation"),
        ({"stream_options": {}}, "stream_options"),
        ({"n": 2}, "n"),
        ({"messages": [USER]}, "messages"),
    ],
)
def test_a_wrong_value_is_a_400_that_names_its_place(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        check(**more)
    assert (caught.value.status, caught.value.param) == (400, param)
