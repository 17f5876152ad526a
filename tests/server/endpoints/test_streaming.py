"""Streams and callers who go away: events as they should be on the wire, errors as events, and no
work for nobody.
"""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from background_loop import BackgroundLoop
from live_server import live_server

from puna.api import streaming
from puna.engine_process.client import EngineClient
from puna.engine_process.messages import ModelSpec
from puna.inference.engine_config import EngineConfig
from puna.server.http_limits import HttpLimits

HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS: dict[str, Any] = {"model": "noise", "prompt": "x", "max_tokens": 1400, "ignore_eos": True}


@pytest.fixture(scope="module")
def patient(loop: BackgroundLoop, noise: EngineClient) -> Iterator[str]:
    """A server that lets texts get long."""
    with live_server(loop, noise, HttpLimits(requests_per_minute=10**6)) as url:
        yield url


def lines(http: httpx.Client, path: str, body: dict[str, Any]) -> list[str]:
    with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        return list(answer.iter_lines())


def events(of: list[str]) -> list[Any]:
    """The JSON of each event; `[DONE]` as text."""
    assert of[1::2] == [""] * (len(of) // 2), "an empty line ends each event"
    said = [line for line in of[::2] if not line.startswith(":")]
    data = [line.removeprefix("data: ") for line in said]
    assert all(line.startswith("data: ") for line in said)
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def generated(noise: EngineClient) -> float:
    """Tokens that the engine has made so far, as /metrics tells."""
    page = noise.metrics.render().decode()
    return float(
        page.partition('puna_generated_tokens_total{model="noise"} ')[2].partition("\n")[0]
    )


def running(noise: EngineClient) -> float:
    page = noise.metrics.render().decode()
    return float(page.partition('puna_sequences_running{model="noise"} ')[2].partition("\n")[0])


def wait_until(reached: Callable[[], bool]) -> None:
    """Return once it is so; at most 10 seconds later."""
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_a_stream_on_the_wire(http: httpx.Client) -> None:
    body = {
        "model": "noise",
        "messages": HELLO,
        "stream": True,
        "max_tokens": 5,
        "n": 2,
        "ignore_eos": True,
    }
    *chunks, done = events(lines(http, "/v1/chat/completions", body))
    assert done == "[DONE]"
    for index in range(2):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0] == {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        assert all(set(choice["delta"]) == {"content"} for choice in own[1:-1])
        assert own[-1] == {"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)
    with_usage = events(
        lines(http, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    )
    assert [chunk["usage"] for chunk in with_usage[:-2]] == [None] * (len(with_usage) - 2)
    assert with_usage[-2]["choices"] == []
    assert with_usage[-2]["usage"]["completion_tokens"] == 10


def test_every_event_is_whole_characters(http: httpx.Client) -> None:
    """The model writes halves of characters; no event ends between them unless no other half ever
    comes.
    """
    body = {"model": "noise", "prompt": "東京", "max_tokens": 60, "seed": 1, "ignore_eos": True}
    whole = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    *chunks, _ = events(lines(http, "/v1/completions", {**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
    assert "\ufffd" in whole


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_caller_who_goes_away_ends_the_work(
    patient: str, noise: EngineClient, stream: bool, n: int
) -> None:
    before = generated(noise)
    address = httpx.URL(patient)
    body = json.dumps({**ENDLESS, "n": n, "stream": stream}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type:"
        " application/json\r\n"
    )
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: generated(noise) > before)
    wait_until(lambda: running(noise) == 0)
    assert generated(noise) - before < n * 1400, "it did not write to the end"


@contextmanager
def standing_still(noise: EngineClient) -> Iterator[None]:
    """The engine makes no token meanwhile, however fast it is."""
    noise._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        noise._process.send_signal(signal.SIGCONT)


def test_a_stream_that_takes_too_long_says_so_and_ends(
    loop: BackgroundLoop, noise: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its notice comes before the connection is cut: half a second before, here; with the share of
    a server that gives minutes it was 25 ms.
    """
    monkeypatch.setattr(streaming, "SHARE_OF_THE_TIME", 0.5)
    with (
        live_server(loop, noise, HttpLimits(request_seconds=1.0)) as url,
        httpx.Client(base_url=url) as http,
    ):
        with http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
            received = answer.iter_lines()
            first = next(received)
            with standing_still(noise):
                *_, last = events([first, *received])
        assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "timeout")
        with standing_still(noise):
            whole = http.post("/v1/completions", json=ENDLESS)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
    wait_until(lambda: running(noise) == 0)


def test_an_engine_that_dies_is_an_error_and_never_silence(
    loop: BackgroundLoop, start: Callable[..., EngineClient], noise_folder: Path
) -> None:
    doomed = start(ModelSpec("noise", str(noise_folder)), options=EngineConfig(max_running=2))
    with live_server(loop, doomed) as url, httpx.Client(base_url=url, timeout=60) as http:
        with http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
            received = answer.iter_lines()
            first = next(received)
            doomed._process.kill()
            *chunks, last = events([first, *received])
        assert len(chunks) < 1400
        assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "engine_stopped")
        answer = http.post("/v1/completions", json=ENDLESS)
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "server_error"
        health = http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "dead")


def test_a_slow_reader_delays_nobody(patient: str) -> None:
    address = httpx.URL(patient)
    body = json.dumps({**ENDLESS, "n": 4, "stream": True, "logprobs": 5}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type:"
        " application/json\r\n"
    )
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(1)  # and not a byte more
        answer = httpx.post(
            f"{patient}/v1/completions", json={**ENDLESS, "max_tokens": 20}, timeout=30
        ).json()
        assert answer["usage"]["completion_tokens"] == 20
