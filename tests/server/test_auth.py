"""Rules of access: names of this machine, and addresses that others reach."""

import socket

import pytest

from puna.errors import ConfigError
from puna.server.auth import check_exposure, is_loopback_name, reaches_only_here


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
def test_a_key_that_nobody_could_send_is_rejected(key: str) -> None:
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
