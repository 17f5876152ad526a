"""/v1/responses through OpenAI's own client and on the wire: items, events, tools, forms, and what
is rejected because nothing is stored.
"""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import openai as openai_library
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseFailedEvent, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from puna.api import chat_generation, generation
from puna.api.error_response import ApiError
from puna.tokenizer.chat_template import Message, ToolCall, encode_chat
from puna.tokenizer.tokenizer import Tokenizer

PATH = "/v1/responses"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Cusco", "Lima"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "name": "weather", "description": "The forecast", "parameters": WEATHER},
    {"type": "function", "name": "stop"},
]
ENDED = ("response.completed", "response.incomplete")


@pytest.fixture(scope="module")
def endless(tokenizer: Tokenizer) -> dict[str, Any]:
    """The model ends a text by chance; where a test counts on its length, it goes on."""
    return {"extra_body": {"logit_bias": {str(id_): -100 for id_ in tokenizer.end_ids}, "seed": 5}}


def asked(openai: OpenAI, **more: Any) -> Response:
    answer: Response = openai.responses.create(**{"model": "noise", "input": "Hello", **more})
    return valid(answer)


def valid(answer: Response) -> Response:
    """All that the client's types say of an answer, which the client itself takes on trust."""
    assert Response.model_validate(answer.to_dict(), strict=True) is not None
    return answer


def streamed(openai: OpenAI, **more: Any) -> list[ResponseStreamEvent]:
    events = list(
        openai.responses.create(**{"model": "noise", "input": "Hello", **more}, stream=True)
    )
    for event in events:
        TypeAdapter[Any](ResponseStreamEvent).validate_python(event.to_dict(), strict=True)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    return events


def without_ids(answer: Any) -> Any:
    """The answer but for what is new in each."""
    if isinstance(answer, list):
        return [without_ids(part) for part in answer]
    if isinstance(answer, dict):
        new = ("id", "call_id", "created_at", "completed_at", "input_tokens_details")
        return {key: without_ids(value) for key, value in answer.items() if key not in new}
    return answer


def rejected(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post(PATH, json={"model": "noise", "input": "Hello", **body})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_text_is_answered_by_a_message(
    openai: OpenAI, tokenizer: Tokenizer, endless: dict[str, Any]
) -> None:
    answer = asked(
        openai, instructions="Be brief", max_output_tokens=12, metadata={"a": "b"}, **endless
    )
    (item,) = answer.output
    assert item.type == "message"
    assert (item.role, item.status, len(item.content)) == ("assistant", "incomplete", 1)
    assert answer.output_text
    assert (answer.status, answer.incomplete_details and answer.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    turns = [Message("system", "Be brief"), Message("user", "Hello")]
    prompt = encode_chat(tokenizer, turns, add_generation_prompt=True).ids
    assert answer.usage is not None
    assert (
        answer.usage.input_tokens,
        answer.usage.output_tokens,
        answer.usage.total_tokens,
    ) == (len(prompt), 12, len(prompt) + 12)
    assert (answer.metadata, answer.instructions, answer.max_output_tokens) == (
        {"a": "b"},
        "Be brief",
        12,
    )
    assert answer.to_dict()["store"] is False


def test_the_text_is_that_of_a_chat(openai: OpenAI) -> None:
    chat = openai.chat.completions.create(
        model="noise",
        messages=[
            {"role": "developer", "content": "Be brief"},
            {"role": "user", "content": "a\nb"},
        ],
        temperature=0,
        max_tokens=9,
    )
    given: Any = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        }
    ]
    answer = asked(openai, instructions="Be brief", input=given, temperature=0, max_output_tokens=9)
    assert answer.output_text == chat.choices[0].message.content
    assert answer.status == (
        "incomplete" if chat.choices[0].finish_reason == "length" else "completed"
    )


def test_a_stream_tells_what_the_whole_answer_is(openai: OpenAI, endless: dict[str, Any]) -> None:
    more: dict[str, Any] = {
        "max_output_tokens": 20,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        **endless,
    }
    whole = asked(openai, **more)
    events = streamed(openai, **more)
    last: Any = events[-1]
    assert last.type == "response.incomplete"
    assert without_ids(last.response.output[0].to_dict())["content"][0]["text"] == whole.output_text
    types = [event.type for event in events]
    assert types[2:4] == ["response.output_item.added", "response.content_part.added"]
    assert types[-4:-1] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    deltas: Any = events[4:-4]
    assert {delta.type for delta in deltas} == {"response.output_text.delta"}
    assert len(deltas) > 5, "the text comes as it is made, not all in the end"
    assert "".join(delta.delta for delta in deltas) == whole.output_text
    done: Any = events[-4]
    assert done.text == whole.output_text
    assert {delta.item_id for delta in deltas} == {done.item_id, last.response.output[0].id}
    logprobs = [token.token for delta in deltas for token in delta.logprobs]
    item: Any = whole.output[0]
    assert logprobs == [token.token for token in item.content[0].logprobs]
    assert logprobs == [token.token for token in done.logprobs]
    assert {len(token.top_logprobs) for token in done.logprobs} == {2}
    assert not any(delta.logprobs for delta in streamed(openai, max_output_tokens=3)[4:-4])


def test_events_on_the_wire_have_their_types_and_no_end_mark(http: httpx.Client) -> None:
    body = {"model": "noise", "input": "Hello", "stream": True, "max_output_tokens": 3}
    with http.stream("POST", PATH, json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = list(answer.iter_lines())
    assert lines[2::3] == [""] * (len(lines) // 3), "an empty line ends each event"
    for event, data in zip(lines[::3], lines[1::3], strict=True):
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert "[DONE]" not in "".join(lines)
    assert lines[-3].removeprefix("event: ") in ENDED


def test_the_clients_stream_helper_has_the_final_response(openai: OpenAI) -> None:
    format_ = {"type": "json_object"}
    with openai.responses.stream(
        model="noise", input="Hello", text={"format": format_}, temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        if kinds[-1] == "response.completed":
            json.loads(stream.get_final_response().output_text)


def test_a_schema_is_kept_to_and_parsed(openai: OpenAI) -> None:
    class Reading(BaseModel):
        llama: bool

    answer = openai.responses.parse(model="noise", input="Hello", text_format=Reading)
    assert isinstance(answer.output_parsed, Reading)
    assert answer.status == "completed"
    assert answer.to_dict()["text"]["format"]["name"] == "Reading"
    with openai.responses.stream(model="noise", input="Hello", text_format=Reading) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Reading)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_demanded_call_is_made(openai: OpenAI, choice: Any) -> None:
    for seed in range(3):
        more: Any = {"tools": TOOLS, "tool_choice": choice, "extra_body": {"seed": seed}}
        answer = asked(openai, **more)
        (call,) = answer.output
        assert call.type == "function_call"
        assert (answer.status, call.status) == ("completed", "completed")
        assert call.name in (["weather", "stop"] if choice == "required" else ["weather"])
        arguments = json.loads(call.arguments)
        assert arguments == {} if call.name == "stop" else arguments["city"] in ("Cusco", "Lima")
        assert answer.to_dict()["tool_choice"] == choice
        events: Any = streamed(openai, **more)
        assert events[2].type == "response.output_item.added"
        assert (events[2].item.name, events[2].item.arguments) == (call.name, "")
        assert events[2].item.status == "in_progress"
        deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
        assert "".join(delta.delta for delta in deltas) == call.arguments
        assert [event.type for event in events[-3:]] == [
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert events[-3].arguments == call.arguments
        assert without_ids(events[-1].response.to_dict()) == without_ids(answer.to_dict())


def test_a_cut_call_is_incomplete(openai: OpenAI) -> None:
    answer = asked(
        openai,
        tools=TOOLS,
        tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=15,
        extra_body={"seed": 1},
    )
    assert answer.status == "incomplete"
    assert [item.to_dict()["status"] for item in answer.output] == ["incomplete"]


def test_a_call_its_output_and_the_answer_can_be_sent_back(
    openai: OpenAI, tokenizer: Tokenizer
) -> None:
    given: list[Any] = [{"role": "user", "content": "Hello"}]
    more: dict[str, Any] = {"tools": TOOLS, "tool_choice": {"type": "function", "name": "weather"}}
    first = asked(openai, input=given, **more)
    (call,) = first.output
    assert call.type == "function_call"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    for item in (call, call.to_dict(), call.model_dump()):  # with and without all the nulls
        second = asked(openai, input=[*given, item, output], tools=TOOLS, max_output_tokens=5)
        turns = [
            Message("user", "Hello"),
            Message("assistant", "", (ToolCall("weather", json.loads(call.arguments)),)),
            Message("tool", "sun"),
        ]
        tools = [
            {
                "type": "function",
                "function": {key: value for key, value in tool.items() if key != "type"},
            }
            for tool in TOOLS
        ]
        prompt = encode_chat(tokenizer, turns, tools=tools, add_generation_prompt=True).ids
        assert second.usage is not None
        assert second.usage.input_tokens == len(prompt)
    third = asked(
        openai,
        input=[*given, call, output, *second.output, {"role": "user", "content": "Thanks"}],
        tools=TOOLS,
        tool_choice="none",
        max_output_tokens=3,
    )
    assert [item.type for item in third.output] == ["message"]


def test_values_that_change_nothing_are_taken(openai: OpenAI) -> None:
    answer = asked(
        openai,
        max_output_tokens=2,
        store=True,
        truncation="auto",
        include=["reasoning.encrypted_content"],
        service_tier="auto",
        reasoning={"effort": "none", "summary": "auto"},
        user="u",
        prompt_cache_key="k",
        safety_identifier="s",
        parallel_tool_calls=True,
        background=False,
        tools=[],
        tool_choice="auto",
    )
    told = answer.to_dict()
    assert (told["store"], told["truncation"], told["tools"]) == (False, "disabled", [])
    assert (told["user"], told["prompt_cache_key"], told["safety_identifier"]) == ("u", "k", "s")


@pytest.mark.parametrize(
    ("more", "param", "remedy"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "send the whole conversation"),
        ({"background": True}, "background", "wait or stream"),
        ({"prompt": {"id": "p"}}, "prompt", "as instructions and input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "describe a function"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, "input[0].type", "send messages"),
    ],
)
def test_what_would_need_a_store_is_rejected_with_what_to_send_instead(
    http: httpx.Client, more: dict[str, Any], param: str, remedy: str
) -> None:
    error = rejected(http, **more)
    assert (error["param"], error["code"]) == (param, "unsupported_field")
    assert remedy in error["message"]


def test_no_response_can_be_retrieved(openai: OpenAI) -> None:
    with pytest.raises(openai_library.NotFoundError) as caught:
        openai.responses.retrieve("resp_1")
    assert caught.value.code == "response_not_found"
    assert "nothing is stored" in str(caught.value)


def test_errors_call_fields_by_their_names_here(http: httpx.Client) -> None:
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "text"}}
    assert rejected(http, text={"format": schema})["param"] == "text.format"
    long = rejected(http, input="the llama reads " * 3000)
    assert (long["param"], long["code"]) == ("input", "context_length_exceeded")


def test_what_goes_wrong_later_is_an_event_with_the_response(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*arguments: Any) -> AsyncGenerator[Any]:
        async with contextlib.aclosing(generation.generated(*arguments)) as deltas:
            async for delta in deltas:
                yield delta
                raise ApiError(500, "the model failed", code="engine_error")

    monkeypatch.setattr(chat_generation, "generated", broken)
    body = {"model": "noise", "input": "Hello", "stream": True, "max_output_tokens": 9}
    with http.stream("POST", PATH, json=body) as answer:
        assert answer.status_code == 200
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["id"] == events[0]["response"]["id"]
    assert last["response"]["error"] == {"code": "server_error", "message": "the model failed"}
    ResponseFailedEvent.model_validate(last, strict=True)
