"""Who gets in: keys, names of the host, and addresses that others reach."""

import asyncio
import hmac
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from asgi_calls import Answer, call, echo, http_scope

from puna.errors import ConfigError
from puna.server.auth import (
    HostCheck,
    KeyCheck,
    check_exposure,
    is_loopback_name,
    reaches_only_here,
)


def ask(keys: Sequence[str], *authorization: bytes, path: str = "/v1/models") -> Answer:
    headers = [(b"authorization", value) for value in authorization]
    return asyncio.run(call(KeyCheck(echo, keys), http_scope(path, headers)))


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


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.8.9.1:1",
        "[::1]",
        "[::1]:8000",
        "::1",
    ],
)
def test_names_of_this_machine_are_served(host: str) -> None:
    assert (
        asyncio.run(call(HostCheck(echo), http_scope(headers=[(b"host", host.encode())]))).status
        == 200
    )


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        ("",),
        ("evil.example",),
        ("evil.example:8000",),
        ("localhost.evil.example",),
        ("127.0.0.1.evil.example",),
        ("testserver",),
        ("0.0.0.0:8000",),
        ("192.168.1.5",),
        ("[::1].evil.example",),
        ("localhost:80@evil.example",),
        ("localhost", "evil.example"),
        ("127.1",),
    ],
)
def test_a_name_that_a_page_of_the_web_could_have_is_refused(hosts: tuple[str, ...]) -> None:
    """DNS rebinding: evil.example resolves to 127.0.0.1, but the browser says evil.example."""
    answer = asyncio.run(
        call(HostCheck(echo), http_scope(headers=[(b"host", host.encode()) for host in hosts]))
    )
    assert answer.status == 403
    assert answer.error["code"] == "host_not_allowed"


def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def pass_through() -> None:
        for layer in (KeyCheck(app, ["one"]), HostCheck(app)):
            await call(layer, {"type": "lifespan"})

    asyncio.run(pass_through())
    assert seen == ["lifespan", "lifespan"]


def test_loopback_names() -> None:
    assert is_loopback_name("127.0.0.1")
    assert not is_loopback_name("127.0.0.1 ")
    assert reaches_only_here("127.0.0.1")
    assert reaches_only_here("::1")
    assert not reaches_only_here("0.0.0.0")
    assert not reaches_only_here("::")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_an_address_that_others_reach_wants_a_key_or_many_words(host: str) -> None:
    with pytest.raises(ConfigError, match="--allow-anyone-on-the-network"):
        check_exposure(host, [], anyone=False)
    check_exposure(host, ["key"], anyone=False)
    check_exposure(host, [], anyone=True)


def test_this_machine_wants_nothing() -> None:
    check_exposure("127.0.0.1", [], anyone=False)


@pytest.mark.parametrize("key", ["", " ", "key ", "kéy"])
def test_a_key_that_nobody_could_send_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        check_exposure("127.0.0.1", ["fine", key], anyone=False)


def test_a_host_without_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no address"):
        reaches_only_here("a" * 70)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"'nowhere' has no address: .*not known"):
        reaches_only_here("nowhere")
