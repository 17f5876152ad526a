"""Metrics middleware: counts answers by path and status."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.engine_process.metrics import Metrics

CALLER_GONE = 499
"""nginx's status for a caller who went away before there was an answer."""


class RequestCountMiddleware:
    """Tells `metrics` the path of the route and the status of every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it."""
        status = CALLER_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if scope["type"] == "http":
                self._metrics.request_finished(getattr(scope.get("route"), "path", "other"), status)
