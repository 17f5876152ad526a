"""API key middleware: right keys pass, all others get a 401."""

import asyncio
import hmac
from collections.abc import Sequence

import pytest
from asgi_calls import Answer, call, echo, http_scope

from puna.server.middleware.api_key import ApiKeyMiddleware


def ask(keys: Sequence[str], *authorization: bytes, path: str = "/v1/models") -> Answer:
    headers = [(b"authorization", value) for value in authorization]
    return asyncio.run(call(ApiKeyMiddleware(echo, keys), http_scope(path, headers)))


@pytest.mark.parametrize("given", [b"Bearer one", b"bearer two", b"Bearer  one"])
def test_a_right_key_comes_in(given: bytes) -> None:
    assert ask(["one", "two"], given).status == 200


@pytest.mark.parametrize(
    "given",
    [
        (),
        (b"",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"Bearer on",),
        (b"Bearer onee",),
        (b"Basic one",),
        (b"one",),
        (b"Bearer \xff",),
    ],
)
def test_a_wrong_key_is_a_401_in_the_usual_shape(given: tuple[bytes, ...]) -> None:
    answer = ask(["one", "two"], *given)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.headers[b"www-authenticate"] == b"Bearer"


def test_two_keys_at_once_are_none() -> None:
    assert ask(["one"], b"Bearer one", b"Bearer three").status == 401


def test_health_needs_no_key_and_metrics_do() -> None:
    assert ask(["one"], path="/health").status == 200
    assert ask(["one"], path="/metrics").status == 401
    assert ask(["one"], path="/health/").status == 401


def test_callers_are_told_apart_by_key_or_address() -> None:
    assert ask(["one", "two"], b"Bearer one").headers[b"caller"] == b"key 0"
    assert ask(["one", "two"], b"Bearer two").headers[b"caller"] == b"key 1"
    assert ask([]).headers[b"caller"] == b"127.0.0.1"


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert ask(["one", "two"], b"Bearer one").status == 200
    assert compared == [(b"one", b"one"), (b"one", b"two")]
