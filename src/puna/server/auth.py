"""Who may ask: API keys, names that a browser may know this server by, and whether the network may
reach it at all.

Two ASGI layers, to be put around the application, and one rule for the command line. No users, no
sessions; no key is stored or logged.
"""

import hmac
import ipaddress
import socket
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.api.refusal import CLOSE, refuse
from puna.errors import ConfigError

OPEN_PATHS = frozenset({"/health"})
"""What needs no key: whoever restarts servers has none."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header, by its name in lower case; of several of that name, None unless they
    are equal.
    """
    values = {value for key, value in scope["headers"] if key == name}
    return values.pop() if len(values) == 1 else None


class KeyCheck:
    """Lets in whoever gives one of the keys as `Authorization: Bearer KEY`; everybody where there
    are none. Others get a 401.

    It notes who asks in `scope["state"]["caller"]` (`request.state.caller`), for limits by caller:
    the number of the key, or the client's address where there are no keys. Comparing takes as long
    for a key that is nearly right as for one that is not (hmac.compare_digest), and all keys are
    compared.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str] = ()) -> None:
        self._app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say no."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        if not self._keys:
            state["caller"] = (scope.get("client") or ("",))[0]
        elif scope["path"] not in OPEN_PATHS:
            given = header(scope, b"authorization") or b""
            kind, _, key = given.partition(b" ")
            known = [hmac.compare_digest(key.strip(), each) for each in self._keys]
            if kind.lower() != b"bearer" or not any(known):
                message = (
                    "this server wants an API key: send the header `Authorization: Bearer KEY`"
                    if not given
                    else "the API key is wrong"
                )
                return await refuse(
                    send,
                    401,
                    message,
                    "invalid_api_key",
                    ((b"www-authenticate", b"Bearer"), *CLOSE),
                )
            state["caller"] = f"key {known.index(True)}"
        return await self._app(scope, receive, send)


class HostCheck:
    """Refuses requests that call this server by another name than a loopback one, with a 403; for a
    server that only this machine reaches.

    A page of the web can give its own name the address 127.0.0.1 (DNS rebinding) and then talk to
    this server as to its own, past the browser's same-origin rule. The browser sends the page's
    name as Host, which gives it away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say no."""
        if scope["type"] == "http" and not is_loopback_name(
            _without_port(header(scope, b"host") or b"")
        ):
            message = (
                "this server answers only to localhost, 127.0.0.1 and [::1]: the Host header names"
                " another"
            )
            return await refuse(send, 403, message, "host_not_allowed", CLOSE)
        return await self._app(scope, receive, send)


def is_loopback_name(name: str) -> bool:
    """Whether a name, without asking anybody, means this machine only: localhost, 127.0.0.0/8,
    ::1.
    """
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def reaches_only_here(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only. Raises ConfigError
    for a name without an address.
    """
    try:
        addresses = {
            str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        }
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host!r} has no address: {error}; give 127.0.0.1, 0.0.0.0 or an address of"
            " this machine"
        ) from error
    return bool(host) and all(is_loopback_name(address.partition("%")[0]) for address in addresses)


def check_exposure(host: str, keys: Sequence[str], anyone: bool) -> None:
    """Raise ConfigError unless only this machine reaches `host`, or callers need a key, or it was
    said that they need none.
    """
    weak = [key for key in keys if not key.strip() or not key.isascii() or key != key.strip()]
    if weak:
        raise ConfigError(
            "an API key is empty, begins or ends with a space, or is not ASCII: no client could"
            " send it as a header"
        )
    if not (reaches_only_here(host) or keys or anyone):
        raise ConfigError(
            f"--host {host} lets the network in, and whoever comes may use the model: give"
            " --api-key (or PUNA_API_KEY), or say --allow-anyone-on-the-network"
        )


def _without_port(host: bytes) -> str:
    name = host.decode("latin-1")
    bare, colon, port = name.rpartition(":")
    return bare if colon and port.isdigit() and (":" not in bare or bare.endswith("]")) else name
