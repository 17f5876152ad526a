"""Requests as real clients send them, each with its answer: histories with keys of their own,
values that change nothing, stop texts beside forms, prompts that fill the context.
"""

import json
from typing import Any

import httpx
import pytest

from puna.tokenizer.tokenizer import Tokenizer

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
CONTEXT = 4096
X = {
    "type": "object",
    "properties": {"x": {"enum": [1]}, "y": {"enum": ["a}b\n"]}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
WHOLE = {"x": 1, "y": "a}b\n"}


def post(http: httpx.Client, path: str, **body: Any) -> httpx.Response:
    return http.post(path, json={"model": "noise", **body})


def asked(http: httpx.Client, path: str, **body: Any) -> Any:
    answer = post(http, path, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, path: str, **body: Any) -> list[Any]:
    answer = post(http, path, stream=True, **body)
    assert answer.status_code == 200, answer.text
    *given, last = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    return [json.loads(event) for event in given]


def test_a_history_with_keys_of_the_clients_is_that_without_them(http: httpx.Client) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": "{}"},
    }
    plain: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "I look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sun", "tool_call_id": "call_1"},
    ]
    with_keys: list[dict[str, Any]] = [
        {**plain[0], "name": "critic"},
        {
            "role": "user",
            "name": "Ann",
            "content": [{**plain[1]["content"][0], "cache_control": {"type": "ephemeral"}}],
        },
        {
            **plain[2],
            "name": "helper",
            "parsed": None,
            "tool_calls": [],
            "reasoning_content": "thought",
            "provider_specific_fields": {"a": 1},
            "annotations": [],
        },
        {
            **plain[3],
            "tool_calls": [
                {**call, "index": 0, "function": {**call["function"], "parsed_arguments": {}}}
            ],
        },
        {**plain[4], "name": "weather"},
    ]
    for path in (CHAT, "/tokenize"):
        more = {"max_tokens": 5, "seed": 1} if path == CHAT else {}
        one, other = (asked(http, path, messages=given, **more) for given in (plain, with_keys))
        for key in ("choices", "tokens"):
            assert one.get(key) == other.get(key)
        assert one.get("usage", {}).get("prompt_tokens") == other.get("usage", {}).get(
            "prompt_tokens"
        )
    error = post(http, CHAT, messages=HELLO, parsed=None).json()["error"]
    assert (error["param"], error["code"]) == ("parsed", "unsupported_field")


def test_values_without_effect_change_no_answer(http: httpx.Client) -> None:
    body: dict[str, Any] = {"messages": HELLO, "max_tokens": 8, "seed": 5}
    without = {
        "metadata": {"run": "1"},
        "store": True,
        "reasoning_effort": "high",
        "verbosity": "low",
        "service_tier": "flex",
        "prompt_cache_retention": "24h",
        "top_k": -1,
        "stop": "",
    }
    plain, same = asked(http, CHAT, **body), asked(http, CHAT, **body, **without)
    assert same["choices"] == plain["choices"]
    assert same["store"] is False, "whoever asks for storage is told that there is none"
    assert "store" not in plain
    assert all(event["store"] is False for event in events(http, CHAT, **body, store=True))
    assert not any("store" in event for event in events(http, CHAT, **body, store=False))


def test_a_share_of_zero_is_the_likeliest_token(http: httpx.Client) -> None:
    least, greedy = (
        asked(http, COMPLETIONS, prompt="the llama", max_tokens=8, seed=2, **how)["choices"]
        for how in ({"top_p": 0}, {"temperature": 0})
    )
    assert least == greedy


@pytest.mark.parametrize(("best_of", "status"), [(2, 200), (1, 200), (3, 400)])
def test_as_many_are_generated_as_are_given(http: httpx.Client, best_of: int, status: int) -> None:
    answer = post(http, COMPLETIONS, prompt="x", n=2, max_tokens=1, best_of=best_of, suffix="")
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"]["param"] == "best_of"
    else:
        assert len(answer.json()["choices"]) == 2


def test_vectors_have_the_width_of_the_model(http: httpx.Client) -> None:
    answer = asked(http, "/v1/embeddings", input=["a", "b"], dimensions=32)
    assert [len(item["embedding"]) for item in answer["data"]] == [32, 32]
    error = post(http, "/v1/embeddings", input="a", dimensions=16).json()["error"]
    assert (error["param"], error["code"]) == ("dimensions", "unsupported_field")
    assert "as wide as the model, 32" in error["message"]


def test_stop_texts_and_ids_leave_forced_json_whole(
    http: httpx.Client, tokenizer: Tokenizer
) -> None:
    """They cut it, and the answer said `stop` or `tool_calls` all the same, with `{"x": 1`."""
    ids = [
        id_ for id_ in range(tokenizer.vocab_size) if tokenizer.decode([id_])[:1] in {"1", "}", ","}
    ][:16]
    ends: dict[str, Any] = {"stop": [",", "}", "b", '"'], "stop_token_ids": ids}
    function = {"type": "function", "function": {"name": "f", "parameters": X}}
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": X}}
    for seed in range(3):
        body = {"messages": HELLO, "seed": seed, **ends}
        (choice,) = asked(http, CHAT, **body, response_format=format_)["choices"]
        assert choice["finish_reason"] == "stop"
        assert json.loads(choice["message"]["content"]) == WHOLE
        forced = {**body, "tools": [function], "tool_choice": "required"}
        (choice,) = asked(http, CHAT, **forced)["choices"]
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == WHOLE
        streamed = events(http, CHAT, **forced)
        assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"
        pieces = [
            piece["function"]["arguments"]
            for event in streamed
            for piece in event["choices"][0]["delta"].get("tool_calls", ())
        ]
        assert json.loads("".join(pieces)) == WHOLE
        (choice,) = asked(
            http, COMPLETIONS, prompt="x", seed=seed, **ends, response_format=format_
        )["choices"]
        assert (choice["finish_reason"], json.loads(choice["text"])) == ("stop", WHOLE)


def test_forced_json_that_the_length_cuts_says_so(http: httpx.Client) -> None:
    function = {"type": "function", "function": {"name": "f", "parameters": X}}
    (choice,) = asked(
        http, CHAT, messages=HELLO, tools=[function], tool_choice="required", max_tokens=6
    )["choices"]
    assert choice["finish_reason"] == "length"


def test_stop_texts_end_texts_of_an_expression(http: httpx.Client) -> None:
    (choice,) = asked(
        http, COMPLETIONS, prompt="x", stop="b", response_format={"type": "regex", "regex": "aab"}
    )["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("aa", "stop")


def test_tools_are_described_where_no_user_speaks(http: httpx.Client) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "long " * 20}}]
    system = [{"role": "system", "content": "Call f."}]
    bare, told = (
        asked(http, CHAT, messages=system, max_tokens=1, **more)["usage"]["prompt_tokens"]
        for more in ({}, {"tools": tools})
    )
    assert told > bare + 40
    (choice,) = asked(http, CHAT, messages=system, tools=tools, tool_choice="required")["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_a_text_that_fills_the_context_is_scored(http: httpx.Client) -> None:
    ids = [5, 6, 7, 8] * (CONTEXT // 4)
    score: dict[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 0}
    answer = asked(http, COMPLETIONS, prompt=ids, **score)
    (choice,) = answer["choices"]
    assert len(choice["logprobs"]["token_logprobs"]) == CONTEXT
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (CONTEXT, 0)
    (shorter,) = asked(http, COMPLETIONS, prompt=ids[:-1], **score)["choices"]
    assert choice["logprobs"]["token_logprobs"][1:-1] == pytest.approx(
        shorter["logprobs"]["token_logprobs"][1:], abs=1e-4
    )
    for prompt, most in ((ids, 1), ([*ids, 5], 0)):
        error = post(http, COMPLETIONS, prompt=prompt, **{**score, "max_tokens": most}).json()[
            "error"
        ]
        assert error["code"] == "context_length_exceeded"
    assert asked(http, "/v1/embeddings", input=ids)["usage"]["prompt_tokens"] == CONTEXT
