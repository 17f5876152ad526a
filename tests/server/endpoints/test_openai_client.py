"""OpenAI's own client against the whole server: what it sends is understood, what it parses is what
was meant.
"""

import base64
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openai as openai_library
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from puna.tokenizer.chat_template import Message, encode_chat
from puna.tokenizer.tokenizer import Tokenizer

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/City"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"City": {"type": "string", "enum": ["Cusco", "Lima"]}},
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "The forecast", "parameters": WEATHER},
    },
    {"type": "function", "function": {"name": "stop"}},
]


ON: Any = {"ignore_eos": True}
"""The model ends a text by chance; where a test counts on its length, it goes on."""


def streamed(openai: OpenAI, **asked: Any) -> list[ChatCompletionChunk]:
    return list(openai.chat.completions.create(model="noise", messages=HELLO, stream=True, **asked))


def content(chunks: Sequence[ChatCompletionChunk], index: int = 0) -> str:
    deltas = [
        choice.delta.content
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    ]
    return "".join(delta for delta in deltas if delta)


def test_models_and_adapters_are_listed(openai: OpenAI) -> None:
    models = openai.models.list().data
    assert [(model.id, model.object, model.owned_by) for model in models] == [
        ("noise", "model", "puna"),
        ("noise:loud", "model", "puna"),
    ]
    assert openai.models.retrieve("noise:loud") == models[1]
    with pytest.raises(openai_library.NotFoundError) as caught:
        openai.models.retrieve("gpt")
    assert caught.value.code == "model_not_found"


def test_a_chat_is_answered(openai: OpenAI, tokenizer: Tokenizer) -> None:
    answer = openai.chat.completions.create(
        model="noise", messages=HELLO, max_completion_tokens=12, seed=5, extra_body=ON
    )
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.finish_reason) == (
        "chat.completion",
        "noise",
        "length",
    )
    assert (choice.message.role, choice.message.refusal, choice.message.tool_calls) == (
        "assistant",
        None,
        None,
    )
    assert choice.message.content
    prompt = encode_chat(tokenizer, [Message("user", "Hello")], add_generation_prompt=True).ids
    assert answer.usage is not None
    assert (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.total_tokens,
    ) == (len(prompt), 12, len(prompt) + 12)


def test_equal_seeds_give_equal_answers_alone_and_among_n(openai: OpenAI) -> None:
    def asked(**more: Any) -> list[str | None]:
        answer = openai.chat.completions.create(
            model="noise", messages=HELLO, max_tokens=12, **more
        )
        assert [choice.index for choice in answer.choices] == list(range(more.get("n", 1)))
        return [choice.message.content for choice in answer.choices]

    three = asked(seed=20, n=3)
    assert three == [asked(seed=20 + index)[0] for index in range(3)]
    assert len(set(three)) == 3
    assert asked() != asked()


def test_streams_join_to_the_whole(openai: OpenAI) -> None:
    asked: dict[str, Any] = {
        "seed": 3,
        "n": 2,
        "max_tokens": 30,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = openai.chat.completions.create(model="noise", messages=HELLO, **asked)
    chunks = streamed(openai, **asked, stream_options={"include_usage": True})
    *rest, last = chunks
    assert last.choices == []
    assert whole.usage is not None
    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    # all blocks of 16 but that of the last token: the first answer may have computed them itself,
    # where no test before it on this worker had the same prompt
    assert (
        last.usage.prompt_tokens_details.cached_tokens == (whole.usage.prompt_tokens - 1) // 16 * 16
    )
    details = {"prompt_tokens_details"}
    assert last.usage.model_dump(exclude=details) == whole.usage.model_dump(exclude=details)
    assert all(chunk.usage is None for chunk in rest)
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        own = [part for chunk in rest for part in chunk.choices if part.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert content(rest, choice.index) == choice.message.content
        assert [part.finish_reason for part in own if part.finish_reason] == [choice.finish_reason]
        assert own[-1].finish_reason
        logprobs = [token for part in own if part.logprobs for token in part.logprobs.content or []]
        assert choice.logprobs is not None
        for ours, theirs in zip(logprobs, choice.logprobs.content or (), strict=True):
            assert (ours.token, ours.bytes) == (theirs.token, theirs.bytes)
            # another batch, another last bit
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert len(ours.top_logprobs) == len(theirs.top_logprobs) == 2


def test_a_stream_is_many_events(openai: OpenAI) -> None:
    """The text comes as it is made, not all in the end."""
    assert (
        len(
            [
                chunk
                for chunk in streamed(openai, max_tokens=40, seed=1, extra_body=ON)
                if chunk.choices[0].delta.content
            ]
        )
        > 10
    )


def test_stop_texts_end_and_are_left_out(openai: OpenAI) -> None:
    free = (
        openai.chat.completions.create(
            model="noise", messages=HELLO, max_tokens=40, seed=8, extra_body=ON
        )
        .choices[0]
        .message.content
    )
    assert free is not None
    stop = free[len(free) // 2 :][:3]
    asked: dict[str, Any] = {
        "max_tokens": 40,
        "seed": 8,
        "stop": ["never said", stop],
        "extra_body": ON,
    }
    cut = openai.chat.completions.create(model="noise", messages=HELLO, logprobs=True, **asked)
    assert cut.choices[0].message.content == free[: free.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None
    assert cut.usage.completion_tokens < 40
    chunks = streamed(openai, **asked)
    assert content(chunks) == free[: free.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_schema_is_kept_to(openai: OpenAI) -> None:
    class Reading(BaseModel):
        llama: bool
        pages: list[int]

    schema = {
        "type": "object",
        "properties": {
            "llama": {"type": "boolean"},
            "pages": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 3},
        },
        "required": ["llama", "pages"],
        "additionalProperties": False,
    }
    format_: Any = {"type": "json_schema", "json_schema": {"name": "reading", "schema": schema}}
    answer = openai.chat.completions.create(
        model="noise", messages=HELLO, response_format=format_, seed=2
    )
    assert answer.choices[0].finish_reason == "stop"
    Reading.model_validate_json(answer.choices[0].message.content or "", strict=True)


def test_the_clients_own_parsing_of_schemas_works(openai: OpenAI) -> None:
    class Answer(BaseModel):
        sure: bool

    parsed = openai.chat.completions.parse(model="noise", messages=HELLO, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_demanded_call_is_made(openai: OpenAI, choice: Any) -> None:
    for seed in range(4):
        asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "seed": seed}
        answer = openai.chat.completions.create(model="noise", messages=HELLO, **asked).choices[0]
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
        (call,) = answer.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name in (["weather", "stop"] if choice == "required" else ["weather"])
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            assert arguments["city"] in ("Cusco", "Lima")
            assert 1 <= arguments["days"] <= 9
        else:
            assert arguments == {}
        chunks = streamed(openai, **asked)
        parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
        assert (parts[0].index, parts[0].type) == (0, "function")
        assert (parts[0].id or "").startswith("call_")
        assert parts[0].function is not None
        assert (parts[0].function.name, parts[0].function.arguments) == (call.function.name, "")
        assert all(part.id is None and part.index == 0 for part in parts[1:])
        assert (
            "".join(part.function.arguments or "" for part in parts if part.function)
            == call.function.arguments
        )
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        assert not content(chunks)


def test_the_clients_stream_helper_collects_a_call(openai: OpenAI) -> None:
    with openai.chat.completions.stream(
        model="noise", messages=HELLO, tools=TOOLS, tool_choice="required", seed=1
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) is not None


def test_a_call_and_its_answer_can_be_sent_back(openai: OpenAI) -> None:
    first = openai.chat.completions.create(
        model="noise", messages=HELLO, tools=TOOLS, tool_choice="required", seed=0
    )
    message = first.choices[0].message
    assert message.tool_calls
    told = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    for spoken in (message, message.model_dump()):  # with and without all the nulls
        conversation: Any = [*HELLO, spoken, told, {"role": "user", "content": "Thanks"}]
        answer = openai.chat.completions.create(
            model="noise", messages=conversation, tools=TOOLS, tool_choice="none", max_tokens=3
        )
        assert answer.choices[0].message.tool_calls is None


def test_tools_that_may_be_called_leave_words_alone(openai: OpenAI) -> None:
    asked: dict[str, Any] = {"max_tokens": 20, "seed": 4, "tools": TOOLS, "extra_body": ON}
    answer = openai.chat.completions.create(model="noise", messages=HELLO, **asked).choices[0]
    assert (answer.finish_reason, answer.message.tool_calls) == ("length", None)
    chunks = streamed(openai, **asked)
    assert content(chunks) == answer.message.content
    assert len(chunks) > 5, "noise is not held back"


def test_completions_of_several_prompts(openai: OpenAI, tokenizer: Tokenizer) -> None:
    texts = ["the llama", "", "東京"]
    answer = openai.completions.create(
        model="noise", prompt=texts, n=2, max_tokens=6, seed=9, echo=True, extra_body=ON
    )
    assert answer.object == "text_completion"
    assert [choice.index for choice in answer.choices] == list(range(6))
    for choice in answer.choices:
        assert choice.text.startswith(texts[choice.index // 2])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(1 + len(tokenizer.encode(text)) for text in texts)
    assert answer.usage.completion_tokens == 36
    ids = [[tokenizer.bos_id or 0, *tokenizer.encode(text)] for text in texts]
    again = openai.completions.create(
        model="noise", prompt=ids, n=2, max_tokens=6, seed=9, extra_body=ON
    )
    assert [choice.text for choice in again.choices] == [
        choice.text.removeprefix(texts[choice.index // 2]) for choice in answer.choices
    ]


def test_streamed_completions_join_to_the_whole(openai: OpenAI) -> None:
    asked: dict[str, Any] = {
        "prompt": ["the llama", "one"],
        "n": 2,
        "max_tokens": 10,
        "seed": 1,
        "echo": True,
        "logprobs": 2,
        "extra_body": ON,
    }
    whole = openai.completions.create(model="noise", **asked)
    events = list(
        openai.completions.create(
            model="noise", stream=True, stream_options={"include_usage": True}, **asked
        )
    )
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 40
    for choice in whole.choices:
        own = [part for event in events for part in event.choices if part.index == choice.index]
        assert "".join(part.text for part in own) == choice.text
        assert [part.finish_reason for part in own if part.finish_reason] == ["length"]
        assert choice.logprobs is not None
        joined = {
            name: list(itertools.chain.from_iterable(getattr(part.logprobs, name) for part in own))
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        assert (joined["tokens"], joined["text_offset"]) == (
            choice.logprobs.tokens,
            choice.logprobs.text_offset,
        )
        # another batch, another last bit
        assert joined["token_logprobs"] == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)
        assert [set(top) for top in joined["top_logprobs"]] == [
            set(top) for top in choice.logprobs.top_logprobs or ()
        ]


def test_a_shared_beginning_is_told_as_cached(openai: OpenAI) -> None:
    text = "functions please respond with JSON " * 12
    cached = []
    for _ in range(2):
        usage = openai.completions.create(model="noise", prompt=text, max_tokens=2).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0
    assert cached[1]
    assert cached[1] >= 32


def test_embeddings_come_as_the_client_wants_them(openai: OpenAI, tokenizer: Tokenizer) -> None:
    texts = ["the llama", "the llama", "one"]
    decoded = openai.embeddings.create(model="noise", input=texts)  # asks for base64 and decodes it
    assert decoded.usage.prompt_tokens == sum(1 + len(tokenizer.encode(text)) for text in texts)
    plain = openai.embeddings.create(model="noise", input=texts, encoding_format="float")
    coded = openai.embeddings.create(model="noise", input=texts, encoding_format="base64")
    for index in range(3):
        vector = plain.data[index].embedding
        assert plain.data[index].index == index
        assert len(vector) == 32
        assert math.isclose(sum(value * value for value in vector), 1, rel_tol=1e-5)
        assert np.allclose(decoded.data[index].embedding, vector, atol=1e-6)
        text: Any = coded.data[index].embedding
        assert np.allclose(np.frombuffer(base64.b64decode(text), dtype="<f4"), vector, atol=1e-6)
    assert np.allclose(plain.data[0].embedding, plain.data[1].embedding, atol=1e-5)
    assert not np.allclose(plain.data[0].embedding, plain.data[2].embedding, atol=1e-3)
    ids = [[tokenizer.bos_id or 0, *tokenizer.encode(text)] for text in texts]
    for given in (ids, ids[2]):
        by_ids = openai.embeddings.create(model="noise", input=given, encoding_format="float")
        assert np.allclose(by_ids.data[-1].embedding, plain.data[2].embedding, atol=1e-5)


def test_an_adapter_is_a_model_of_its_own(openai: OpenAI) -> None:
    def asked(model: str) -> tuple[str, list[float]]:
        text = (
            openai.completions.create(
                model=model, prompt="the llama", max_tokens=12, seed=0, temperature=0
            )
            .choices[0]
            .text
        )
        return (
            text,
            openai.embeddings.create(model=model, input="x", encoding_format="float")
            .data[0]
            .embedding,
        )

    (plain, plain_vector), (loud, loud_vector) = asked("noise"), asked("noise:loud")
    assert plain != loud
    assert not np.allclose(plain_vector, loud_vector, atol=1e-3)


def test_errors_are_those_that_the_client_knows(openai: OpenAI) -> None:
    with pytest.raises(openai_library.NotFoundError) as unknown:
        openai.completions.create(model="/etc/passwd", prompt="x")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai_library.BadRequestError) as wrong:
        openai.completions.create(model="noise", prompt="x", temperature=3)
    assert (wrong.value.param, wrong.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai_library.BadRequestError) as long:
        openai.completions.create(model="noise", prompt=[5] * 4096)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    assert "4096 tokens, but may have at most 4095" in str(long.value)
    with pytest.raises(openai_library.BadRequestError) as early:
        streamed(openai, response_format={"type": "regex", "regex": "("})
    assert early.value.param == "response_format"
