"""Host middleware: a 403 for a Host header that names another machine, against DNS rebinding."""

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.server.auth import header, is_loopback_name
from puna.server.http_error import CLOSE, send_error


class HostNameMiddleware:
    """Passes on requests that call this server by a loopback name; for a server that only this
    machine reaches.

    A page of the web can give its own name the address 127.0.0.1 (DNS rebinding) and then talk to
    this server as to its own, past the browser's same-origin rule. The browser sends the page's
    name as Host, which gives it away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 403."""
        if scope["type"] == "http":
            name = _without_port(header(scope, b"host") or b"")
            if not is_loopback_name(name):
                message = (
                    "this server answers only to localhost, 127.0.0.1 and [::1]: the Host header"
                    " names another"
                )
                return await send_error(send, 403, message, "host_not_allowed", CLOSE)
        return await self._app(scope, receive, send)


def _without_port(host: bytes) -> str:
    name = host.decode("latin-1")
    bare, colon, port = name.rpartition(":")
    return bare if colon and port.isdigit() and (":" not in bare or bare.endswith("]")) else name
