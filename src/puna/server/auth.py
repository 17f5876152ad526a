"""Rules of access: names of this machine, and exposure to the network.

The layers that apply them to requests are middleware/api_key.py and middleware/host_name.py. There
are no users and no sessions.
"""

import ipaddress
import socket
from collections.abc import Sequence

from starlette.types import Scope

from puna.errors import ConfigError


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header, by its name in lower case; of several of that name, None unless they
    are equal.
    """
    values = {value for key, value in scope["headers"] if key == name}
    return values.pop() if len(values) == 1 else None


def is_loopback_name(name: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1: names that mean this machine, without asking a
    name server.
    """
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def reaches_only_here(host: str) -> bool:
    """True if a server bound to `host` can be reached from this machine only. Raises ConfigError
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
            f"--host {host} lets the network in, and anyone there may use the model: give"
            " --api-key (or PUNA_API_KEY), or say --allow-anyone-on-the-network"
        )
