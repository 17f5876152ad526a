"""Log-probabilities stand for the text that was given, token by token, in both of OpenAI's
shapes.
"""

from typing import Any

import httpx
import pytest

from puna.tokenizer.chat_template import Message, encode_chat
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def asked(http: httpx.Client, path: str, **body: Any) -> Any:
    answer = http.post(path, json={"model": "noise", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_logprobs_of_a_chat_stand_for_its_text(http: httpx.Client) -> None:
    (choice,) = asked(
        http, CHAT, messages=HELLO, max_tokens=40, seed=3, logprobs=True, top_logprobs=3
    )["choices"]
    tokens = choice["logprobs"]["content"]
    written = bytes(byte for token in tokens for byte in token["bytes"] or ())
    assert written.decode("utf-8", errors="replace") == choice["message"]["content"]
    for token in tokens:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        best = [top["logprob"] for top in token["top_logprobs"]]
        assert best == sorted(best, reverse=True)
        assert token["logprob"] <= best[0] + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_tokens_of_a_stop_text_have_no_logprobs(http: httpx.Client, seed: int) -> None:
    body: dict[str, Any] = {
        "prompt": "the llama",
        "max_tokens": 40,
        "seed": seed,
        "logprobs": 0,
        "ignore_eos": True,
    }
    (free,) = asked(http, COMPLETIONS, **body)["choices"]
    stop = free["text"][15:18]
    (cut,) = asked(http, COMPLETIONS, **body, stop=stop)["choices"]
    length = free["text"].index(stop)
    assert cut["text"] == free["text"][:length]
    kept = sum(offset < length for offset in free["logprobs"]["text_offset"])
    assert cut["logprobs"]["tokens"] == free["logprobs"]["tokens"][:kept]


def test_offsets_count_characters_of_the_answer(http: httpx.Client, tokenizer: Tokenizer) -> None:
    """Halves of one character begin where it does."""
    prompt = "東京 🦙"
    (choice,) = asked(
        http,
        COMPLETIONS,
        prompt=prompt,
        max_tokens=30,
        seed=0,
        logprobs=1,
        echo=True,
        ignore_eos=True,
    )["choices"]
    logprobs = choice["logprobs"]
    ids = tokenizer.encode(prompt)
    assert logprobs["tokens"][: len(ids)] == [tokenizer.decode([id_]) for id_ in ids]
    decoder, expected, characters = StreamDecoder(tokenizer), [], 0
    for id_ in ids:
        expected.append(characters)
        characters += len(decoder.feed(id_))
    assert logprobs["text_offset"][: len(ids)] == expected
    assert logprobs["text_offset"][len(ids)] == len(prompt)
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    assert max(logprobs["text_offset"]) < len(choice["text"])
    assert len({len(values) for values in logprobs.values()}) == 1


def test_echo_scores_a_prompt_without_writing(http: httpx.Client, tokenizer: Tokenizer) -> None:
    """What measures of models do: every token of a text given those before it, and nothing
    generated.
    """
    ids = tokenizer.encode("the llama reads")
    by_text = asked(
        http, COMPLETIONS, prompt="the llama reads", max_tokens=0, echo=True, logprobs=2
    )
    by_ids = asked(
        http, COMPLETIONS, prompt=[tokenizer.bos_id, *ids], max_tokens=0, echo=True, logprobs=2
    )
    (text_choice,), (ids_choice,) = by_text["choices"], by_ids["choices"]
    assert (text_choice["text"], text_choice["finish_reason"]) == ("the llama reads", "length")
    assert by_text["usage"]["completion_tokens"] == 0
    assert text_choice["logprobs"]["tokens"] == [tokenizer.decode([id_]) for id_ in ids]
    assert ids_choice["text"] == "<|begin_of_text|>the llama reads"
    assert ids_choice["logprobs"]["token_logprobs"][0] is None
    assert ids_choice["logprobs"]["top_logprobs"][0] is None
    assert ids_choice["logprobs"]["token_logprobs"][1:] == pytest.approx(
        text_choice["logprobs"]["token_logprobs"], abs=1e-4
    )
    longer = asked(
        http,
        COMPLETIONS,
        prompt="the llama reads",
        max_tokens=5,
        echo=True,
        logprobs=2,
        ignore_eos=True,
    )["choices"][0]
    assert longer["logprobs"]["token_logprobs"][: len(ids)] == pytest.approx(
        text_choice["logprobs"]["token_logprobs"], abs=1e-4
    )
    assert len(longer["logprobs"]["tokens"]) >= len(ids)


@pytest.mark.parametrize("echo", [True, False])
def test_an_end_token_is_listed_after_an_echoed_prompt(
    http: httpx.Client, tokenizer: Tokenizer, echo: bool
) -> None:
    """lm-evaluation-harness asks for one new token and drops the last of the list as it: without
    the end token it dropped the last of the prompt.
    """
    body = {
        "prompt": "the llama reads",
        "max_tokens": 1,
        "echo": echo,
        "logprobs": 1,
        "logit_bias": {str(tokenizer.eos_id): 100},
    }
    (choice,) = asked(http, COMPLETIONS, **body)["choices"]
    assert choice["finish_reason"] == "stop"
    prompt = tokenizer.encode("the llama reads")
    listed = [*prompt, tokenizer.eos_id] if echo else []
    assert choice["logprobs"]["tokens"] == [tokenizer.decode([id_]) for id_ in listed]
    if echo:
        assert choice["text"] == "the llama reads"
        assert choice["logprobs"]["text_offset"][-1] == len(choice["text"])


def test_prompts_are_scored_where_asked_for(http: httpx.Client, tokenizer: Tokenizer) -> None:
    count = len(encode_chat(tokenizer, [Message("user", "Hello")], add_generation_prompt=True).ids)
    whole = asked(http, CHAT, messages=HELLO, max_tokens=2, prompt_logprobs=1)["choices"][0]
    assert len(whole["prompt_logprobs"]) == count
    assert whole["prompt_logprobs"][0] is None
    assert all(len(token["top_logprobs"]) == 1 for token in whole["prompt_logprobs"][1:])
    assert whole["prompt_logprobs"][1]["token"] == "<|start_header_id|>"
    assert whole["prompt_logprobs"][1]["bytes"] is None
    completion = asked(http, COMPLETIONS, prompt="the llama", max_tokens=2, prompt_logprobs=0)[
        "choices"
    ][0]
    scores = [token["logprob"] for token in completion["prompt_logprobs"][1:]]
    echoed = asked(http, COMPLETIONS, prompt="the llama", max_tokens=0, echo=True, logprobs=0)[
        "choices"
    ][0]
    assert scores == pytest.approx(echoed["logprobs"]["token_logprobs"], abs=1e-4)
    assert "prompt_logprobs" not in echoed
