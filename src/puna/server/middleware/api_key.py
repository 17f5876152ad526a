"""API key middleware: a 401 for a request without one of the keys. No key is stored or logged."""

import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.server.auth import header
from puna.server.http_error import CLOSE, send_error

OPEN_PATHS = frozenset({"/health"})
"""These need no key: a program that restarts servers has none."""


class ApiKeyMiddleware:
    """Passes on requests with one of the keys as `Authorization: Bearer KEY`; all, if there are no
    keys.

    It notes the caller in `scope["state"]["caller"]` (`request.state.caller`), for limits by
    caller: the number of the key, or the client's address where there are no keys. Comparing takes
    as long for a key that is nearly right as for one that is not (hmac.compare_digest), and all
    keys are compared.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str] = ()) -> None:
        self._app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 401."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        if not self._keys:
            state["caller"] = (scope.get("client") or ("",))[0]
        elif scope["path"] not in OPEN_PATHS:
            given = header(scope, b"authorization") or b""
            kind, _, key = given.partition(b" ")
            equal = [hmac.compare_digest(key.strip(), each) for each in self._keys]
            if kind.lower() != b"bearer" or not any(equal):
                message = (
                    "this server wants an API key: send the header `Authorization: Bearer KEY`"
                    if not given
                    else "the API key is wrong"
                )
                headers = ((b"www-authenticate", b"Bearer"), *CLOSE)
                return await send_error(send, 401, message, "invalid_api_key", headers)
            state["caller"] = f"key {equal.index(True)}"
        return await self._app(scope, receive, send)
