"""The endpoints over plain HTTP: what they answer beside OpenAI's own client, and how they
reject.
"""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from background_loop import BackgroundLoop
from live_server import live_server

from puna.cli.serve import request_log
from puna.engine_process.client import EngineClient
from puna.engine_process.messages import ModelSpec
from puna.server.http_limits import HttpLimits
from puna.tokenizer.chat_template import CHAT_TEMPLATE, Message, ToolCall, encode_chat
from puna.tokenizer.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def asked(http: httpx.Client, path: str, **body: Any) -> Any:
    answer = http.post(path, json={"model": "noise", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def rejected(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error, in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


# Paths, methods, content types, keys


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/completions", "/v1/completion", "/docs", "/redoc", "/v1/model/"]
)
def test_an_unknown_path_is_a_404(http: httpx.Client, path: str) -> None:
    assert rejected(http.post(path, json={}), 404)["code"] == "unknown_path"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", COMPLETIONS, "POST"),
        ("DELETE", CHAT, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/v1/models/noise", "GET, HEAD"),
        ("HEAD", COMPLETIONS, "POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("PATCH", "/tokenize", "POST"),
        ("TRACE", "/health", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_a_405_that_says_which_is_right(
    http: httpx.Client, method: str, path: str, allowed: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert rejected(answer, 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/v1/models", "/v1/models/noise", "/openapi.json", "/v1/no"]
)
def test_head_is_get_without_its_body(http: httpx.Client, path: str) -> None:
    whole, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert "content-length" in head.headers


def test_slashes_too_many_change_nothing(http: httpx.Client) -> None:
    """As of a base URL that ends with one, and of clients that end each path with one."""
    for path in ("/v1/models/", "//v1/models", "/v1//models//"):
        assert http.get(f"{http.base_url}".rstrip("/") + path).json()["data"], path
    assert asked(http, COMPLETIONS + "/", prompt="x", max_tokens=1)["choices"]


def test_a_body_may_be_packed_by_gzip(http: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"model": "noise", "prompt": "x"}).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = http.post("/tokenize", content=body, headers=headers)
    assert answer.json() == asked(http, "/tokenize", prompt="x")
    answer = http.post("/tokenize", content=body, headers={**headers, "content-encoding": "br"})
    assert rejected(answer, 415)["code"] == "unsupported_media_type"


def test_every_answer_has_an_id_and_a_line_without_prompts(
    loop: BackgroundLoop, noise: EngineClient, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    log = request_log(str(file))
    asked_for = {"model": "noise", "prompt": "secret", "max_tokens": 3, "ignore_eos": True}
    chat = {"model": "noise", "messages": HELLO, "max_tokens": 2, "ignore_eos": True, "n": 2}
    with (
        live_server(loop, noise, log=log, log_format="json") as url,
        httpx.Client(base_url=url, headers={"x-request-id": "mine"}, timeout=60) as http,
    ):
        answers = [
            http.post(COMPLETIONS, json=asked_for),
            http.post(COMPLETIONS, json={**asked_for, "stream": True}),
            http.post(CHAT, json=chat),
            http.post("/v1/embeddings", json={"model": "noise", "input": ["secret", "x"]}),
            http.get("/nowhere?secret"),
        ]
        given = [
            answer.json()["usage"] for answer in (answers[0], answers[0], answers[2], answers[3])
        ]
    for handler in log.handlers:
        handler.close()
    text = file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {answer.headers["x-request-id"] for answer in answers} == {"mine"}
    assert {line["id"] for line in lines} == {"mine"}
    assert [line["status"] for line in lines] == [200, 200, 200, 200, 404]
    assert [line["prompt_tokens"] for line in lines[:4]] == [one["prompt_tokens"] for one in given]
    assert [line["completion_tokens"] for line in lines] == [3, 3, 4, 0, None]
    assert all(line["complete"] for line in lines)
    assert "secret" not in text


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "",
    ],
)
def test_another_content_type_is_a_415(http: httpx.Client, kind: str) -> None:
    body = json.dumps({"model": "noise", "prompt": "x", "max_tokens": 1}).encode()
    assert (
        rejected(http.post(COMPLETIONS, content=body, headers={"content-type": kind}), 415)["code"]
        == "unsupported_media_type"
    )
    assert (
        http.post(
            COMPLETIONS, content=body, headers={"content-type": "Application/JSON; charset=utf-8"}
        ).status_code
        == 200
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"model": "noise", "prompt": "\xff"}',
        b'{"model": "noise", "prompt": "\\ud800"}',
        b"[" * 60,
    ],
)
def test_what_is_no_object_is_a_400(http: httpx.Client, body: bytes) -> None:
    for path in (COMPLETIONS, CHAT, "/v1/embeddings", "/tokenize", "/detokenize"):
        rejected(http.post(path, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt-4",
        "../noise",
        "noise:",
        "noise:unknown",
        "noise:loud:loud",
        "n" * 10_000,
        "\x00",
        "東京",
    ],
)
def test_a_model_is_looked_up_by_its_name_alone(http: httpx.Client, name: str) -> None:
    for path, body in (
        (COMPLETIONS, {"prompt": "x"}),
        (CHAT, {"messages": HELLO}),
        ("/tokenize", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
    ):
        error = rejected(http.post(path, json={"model": name, **body}), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert len(error["message"]) < 1000


def test_keys_origins_and_hosts_are_looked_at(loop: BackgroundLoop, noise: EngineClient) -> None:
    origin = "https://page.example"
    with (
        live_server(loop, noise, api_keys=("secret",), allow_origins=(origin,)) as url,
        httpx.Client(base_url=url) as http,
    ):
        assert rejected(http.get("/v1/models"), 401)["code"] == "invalid_api_key"
        assert rejected(http.get("/openapi.json"), 401)
        assert rejected(http.get("/metrics"), 401)
        assert http.get("/health").json() == {"status": "ok", "detail": ""}
        key = {"authorization": "Bearer secret"}
        answer = http.get("/v1/models", headers={**key, "origin": origin})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert (
            "access-control-allow-origin"
            not in http.get(
                "/v1/models", headers={**key, "origin": "https://other.example"}
            ).headers
        )
        preflight = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        assert http.options("/v1/chat/completions", headers=preflight).status_code == 200
        document = http.get("/openapi.json", headers=key).json()
        assert document["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
        assert document["paths"]["/health"]["get"]["security"] == []
        assert (
            rejected(http.get("/health", headers={"host": "page.example"}), 403)["code"]
            == "host_not_allowed"
        )


def test_limits_are_kept_and_told(loop: BackgroundLoop, noise: EngineClient) -> None:
    limits = HttpLimits(
        body_bytes=2000,
        n=2,
        stops=1,
        output_tokens=9,
        prompt_tokens=20,
        prompts=2,
        schema_characters=30,
        tools=1,
        logprobs=1,
    )
    with live_server(loop, noise, limits) as url, httpx.Client(base_url=url) as http:
        assert (
            rejected(http.post(COMPLETIONS, json={"model": "noise", "prompt": "x" * 3000}), 413)[
                "code"
            ]
            == "body_too_large"
        )
        for prompt, numbers in (
            ([5] * 21, "has 21 entries, more than 20"),
            (
                " llama" * 20,
                "has 21 tokens, but may have at most 20",
            ),
        ):
            long = rejected(http.post(COMPLETIONS, json={"model": "noise", "prompt": prompt}), 400)
            assert (long["code"], numbers in long["message"]) == ("context_length_exceeded", True)
        for name, value in {
            "n": 3,
            "stop": ["a", "b"],
            "prompt": ["a"] * 3,
            "logprobs": 2,
            "min_tokens": 10,
            "response_format": {"type": "regex", "regex": "a" * 31},
        }.items():
            error = rejected(
                http.post(COMPLETIONS, json={"model": "noise", "prompt": "x", name: value}), 400
            )
            assert error["param"].partition(".")[0] == name
        schema = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "string", "description": "long"}},
        }
        assert (
            rejected(
                http.post(
                    COMPLETIONS, json={"model": "noise", "prompt": "x", "response_format": schema}
                ),
                400,
            )["param"]
            == "response_format"
        )
        for asked_for in ({}, {"max_tokens": -1}, {"max_tokens": 10**9}):
            answer = http.post(
                COMPLETIONS, json={"model": "noise", "prompt": "x", "ignore_eos": True, **asked_for}
            ).json()
            assert answer["usage"]["completion_tokens"] == 9, "what the limit allows"
        bodies = http.get("/openapi.json").json()["components"]["schemas"]
        assert bodies["CompletionRequest"]["properties"]["n"]["anyOf"][0] == {
            "type": "integer",
            "minimum": 1,
            "maximum": 2,
        }
        assert bodies["CompletionRequest"]["properties"]["model"]["enum"] == ["noise", "noise:loud"]
        assert not [text for text in ("x-bound", "x-model-name") if text in json.dumps(bodies)]


def test_more_requests_than_allowed_are_a_429_that_says_when_to_come_again(
    loop: BackgroundLoop, noise: EngineClient
) -> None:
    limits = HttpLimits(burst=2, requests_per_minute=1)
    with live_server(loop, noise, limits) as url, httpx.Client(base_url=url) as http:
        answers = [http.post("/tokenize", json={"model": "noise", "prompt": "x"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert rejected(answers[2], 429)["code"] == "rate_limit_exceeded"
        assert int(answers[2].headers["retry-after"]) >= 1
        streamed = http.post(COMPLETIONS, json={"model": "noise", "prompt": "x", "stream": True})
        assert rejected(streamed, 429), "a stream that cannot begin is an answer, not an event"


def test_requests_are_counted_by_route_and_status(http: httpx.Client) -> None:
    http.get("/v1/models/noise")
    http.get("/nowhere/at/all")
    page = http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'puna_requests_total{endpoint="/v1/models/{model}",status="200"}' in page.text
    assert 'puna_requests_total{endpoint="other",status="404"}' in page.text
    assert "nowhere" not in page.text


# Tokens


def test_texts_to_ids_and_back(http: httpx.Client, tokenizer: Tokenizer) -> None:
    text = "the llama reads 東京 🦙 <|eot_id|>"
    ids = tokenizer.encode(text)
    whole = asked(http, "/tokenize", prompt=text)
    assert whole == {
        "tokens": [tokenizer.bos_id, *ids],
        "count": len(ids) + 1,
        "max_model_len": 4096,
    }
    assert asked(http, "/tokenize", prompt=text, add_special_tokens=False)["tokens"] == ids
    assert asked(http, "/tokenize", prompt="", add_special_tokens=False)["tokens"] == []
    assert asked(http, "/detokenize", tokens=ids) == {"prompt": text}
    assert asked(http, "/detokenize", tokens=[tokenizer.bos_id, *ids[:1]])["prompt"].startswith(
        "<|begin_of_text|>"
    )
    assert asked(http, "/detokenize", tokens=[]) == {"prompt": ""}


def test_an_evaluation_harness_finds_the_tokenizer(
    http: httpx.Client, tokenizer: Tokenizer
) -> None:
    """The requests of lm-evaluation-harness 0.4.13 (`check_remote_tokenizer_support` and
    `RemoteTokenizer` in its lm_eval/utils.py), which names no model. It takes the first of the ids
    of a special token's name for its id; those of its letters gave `<`.
    """

    def encode(text: str) -> list[int]:
        answer = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False})
        return list(answer.json()["tokens"])

    info = http.get("/tokenizer_info", headers={"content-type": "application/json"}).json()
    assert info["chat_template"] == CHAT_TEMPLATE
    assert encode("test") == tokenizer.encode("test")
    assert encode(info["bos_token"])[0] == tokenizer.bos_id
    assert encode(info["eos_token"])[0] == tokenizer.eos_id
    assert encode(info["pad_token"])[0] == tokenizer.pad_id
    ids = tokenizer.encode("the llama")
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "the llama"}


@pytest.mark.parametrize("around", ["{} ", " {}", "{}{}", "a{}"])
def test_a_text_that_holds_a_special_token_is_letters(
    http: httpx.Client, tokenizer: Tokenizer, around: str
) -> None:
    text = around.format("<|eot_id|>", "<|eot_id|>")
    for begin in (True, False):
        ids = asked(http, "/tokenize", prompt=text, add_special_tokens=begin)["tokens"]
        assert ids[int(begin) :] == tokenizer.encode(text)
    ids = asked(http, "/tokenize", prompt="<|eot_id|>")["tokens"]
    assert ids == [tokenizer.bos_id, *tokenizer.encode("<|eot_id|>")]


def test_which_of_several_models_has_to_be_said(
    loop: BackgroundLoop, start: Callable[..., EngineClient], noise_folder: Path
) -> None:
    specs = [ModelSpec(name, str(noise_folder)) for name in ("one", "two")]
    with live_server(loop, start(*specs)) as url, httpx.Client(base_url=url) as http:
        for answer in (
            http.get("/tokenizer_info"),
            http.post("/tokenize", json={"prompt": "x"}),
            http.post("/detokenize", json={"tokens": [1]}),
        ):
            error = rejected(answer, 400)
            assert error["param"] == "model"
            assert "one, two" in error["message"]
        assert http.get("/tokenizer_info", params={"model": "two"}).json()["bos_token"]
        assert rejected(http.get("/tokenizer_info?model=three"), 404)["param"] == "model"


def test_a_chat_is_counted_as_it_would_be_answered(
    http: httpx.Client, tokenizer: Tokenizer
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "does"}}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    turns = [
        Message("user", "Hello"),
        Message("assistant", "", (ToolCall("f", {"a": 1}, "1"),)),
        Message("tool", "2"),
    ]
    for generate in (True, False):
        expected = encode_chat(tokenizer, turns, tools=tools, add_generation_prompt=generate).ids
        found = asked(
            http, "/tokenize", messages=messages, tools=tools, add_generation_prompt=generate
        )
        assert found["tokens"] == expected
    usage = asked(http, CHAT, messages=messages, tools=tools, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == len(
        encode_chat(tokenizer, turns, tools=tools, add_generation_prompt=True).ids
    )


def test_a_text_and_a_chat_at_once_are_rejected(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"model": "noise", "prompt": "x", "messages": HELLO})
    assert rejected(answer, 400)["param"] == "prompt"


# How to choose tokens, and when to end


def test_a_bias_chooses_the_token(http: httpx.Client, tokenizer: Tokenizer) -> None:
    (llama,) = tokenizer.encode(" llama")
    answer = asked(http, COMPLETIONS, prompt="the", max_tokens=3, logit_bias={str(llama): 100})
    assert answer["choices"][0]["text"] == " llama" * 3


def test_each_of_n_ends_by_itself(http: httpx.Client) -> None:
    body: dict[str, Any] = {
        "prompt": ["the", "llama"],
        "n": 2,
        "max_tokens": 30,
        "seed": 1,
        "ignore_eos": True,
    }
    free = [choice["text"] for choice in asked(http, COMPLETIONS, **body)["choices"]]
    stop = next(
        text[5:place]
        for text in free[:1]
        for place in range(6, len(text))
        if not any(text[5:place] in other for other in free[1:])
    )
    cut = asked(http, COMPLETIONS, **body, stop=stop)
    assert [choice["text"] for choice in cut["choices"]] == [
        free[0][: free[0].index(stop)],
        *free[1:],
    ]
    assert [choice["finish_reason"] for choice in cut["choices"]] == [
        "stop",
        "length",
        "length",
        "length",
    ]
    assert 90 < cut["usage"]["completion_tokens"] < 120


def test_ids_can_end_a_text(http: httpx.Client, tokenizer: Tokenizer) -> None:
    body: dict[str, Any] = {
        "prompt": "the",
        "max_tokens": 10,
        "seed": 0,
        "temperature": 0,
        "logprobs": 0,
        "ignore_eos": True,
    }
    free = asked(http, COMPLETIONS, **body)["choices"][0]
    tokens = free["logprobs"]["tokens"]
    chosen = next(token for token in tokens[3:] if "\ufffd" not in token)
    ids = [id_ for id_ in range(tokenizer.vocab_size) if tokenizer.decode([id_]) == chosen]
    cut = asked(http, COMPLETIONS, **body, stop_token_ids=ids)["choices"][0]
    assert (cut["finish_reason"], cut["logprobs"]["tokens"]) == (
        "stop",
        tokens[: tokens.index(chosen)],
    )


def test_a_grammar_and_an_expression_are_kept_to(http: httpx.Client) -> None:
    regex = asked(
        http, COMPLETIONS, prompt="x", response_format={"type": "regex", "regex": "[a-c]{3}-[0-9]"}
    )["choices"][0]
    assert (len(regex["text"]), regex["finish_reason"]) == (5, "stop")
    grammar = {"type": "grammar", "grammar": 'start: "yes" | "no"'}
    assert asked(http, CHAT, messages=HELLO, response_format=grammar)["choices"][0]["message"][
        "content"
    ] in ("yes", "no")


@pytest.mark.parametrize(
    "format_",
    [
        {"type": "regex", "regex": "("},
        {"type": "grammar", "grammar": "start: nowhere"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"typ": "string"}}},
        {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"$ref": "https://example.com/schema"}},
        },
        {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "integer", "minimum": 2, "maximum": 1}},
        },
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_enforced_is_a_400(
    http: httpx.Client, format_: dict[str, Any], stream: bool
) -> None:
    for path, body in ((CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "x"})):
        error = rejected(
            http.post(
                path, json={"model": "noise", **body, "response_format": format_, "stream": stream}
            ),
            400,
        )
        assert error["param"] == "response_format"


def test_calls_or_an_answer_that_keeps_to_its_schema(http: httpx.Client) -> None:
    format_ = {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}},
        },
    }
    tools = [{"type": "function", "function": {"name": "f"}}]
    kinds = set()
    for seed in range(12):
        (choice,) = asked(
            http, CHAT, messages=HELLO, tools=tools, response_format=format_, seed=seed
        )["choices"]
        kinds.add(choice["finish_reason"])
        if choice["finish_reason"] == "tool_calls":
            assert choice["message"]["tool_calls"][0]["function"] == {
                "name": "f",
                "arguments": "{}",
            }
        else:
            assert json.loads(choice["message"]["content"]) in (True, False)
    assert kinds == {"tool_calls", "stop"}


def test_strict_tools_are_called_rightly_or_not_at_all(
    http: httpx.Client, tokenizer: Tokenizer
) -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    function = {"name": "f", "parameters": parameters, "strict": True}
    body: dict[str, Any] = {
        "messages": HELLO,
        "tools": [{"type": "function", "function": function}],
        "max_tokens": 40,
    }
    brace = {
        str(id_): 5
        for id_ in range(tokenizer.vocab_size)
        if tokenizer.token_bytes(id_).startswith(b"{")
    }
    calls = 0
    for seed in range(8):
        (choice,) = asked(http, CHAT, **body, logit_bias=brace, seed=seed)["choices"]
        for call in choice["message"].get("tool_calls", ()):
            calls += 1
            assert json.loads(call["function"]["arguments"]) in ({"a": 1}, {"a": 2})
        if choice["finish_reason"] == "stop":
            assert not choice["message"]["content"].lstrip().startswith("{")
    assert calls


def test_temperature_zero_is_the_likeliest_token(http: httpx.Client) -> None:
    (choice,) = asked(
        http, COMPLETIONS, prompt="the", max_tokens=8, temperature=0, logprobs=1, ignore_eos=True
    )["choices"]
    for logprob, top in zip(
        choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"], strict=True
    ):
        assert math.isclose(logprob, max(top.values()), abs_tol=1e-5)
