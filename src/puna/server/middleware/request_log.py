"""Request log middleware: an id for every request, and a line for each in a log.

A line has the path, the status, times and numbers of tokens; neither prompts nor answers, keys or
addresses, nor anything behind the `?` of a path. What never became a request (connection.py) has
none.
"""

import json
import logging
import re
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.server.auth import header
from puna.server.middleware.request_count import CALLER_GONE

LogFormat = Literal["text", "json"]
REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_PATH_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, answered or not. first_seconds: from its headers to the first byte of the
    answer's body. complete: the answer was sent to its end. The tokens are null where none were
    counted.
    """

    time: str
    id: str
    method: str
    path: str
    status: int
    complete: bool
    seconds: float
    first_seconds: float | None
    prompt_tokens: int | None
    completion_tokens: int | None

    def line(self, form: LogFormat) -> str:
        """As one line: a JSON object, or `name=value` for each field."""
        values = asdict(self)
        if form == "json":
            return json.dumps(values)
        return " ".join(
            f"{name}={'-' if value is None else json.dumps(value).strip(chr(34))}"
            for name, value in values.items()
        )


class RequestLogMiddleware:
    """Gives every answer the header x-request-id, the request's own if it has a safe one, and
    writes a line to `log` when the request is over. An endpoint that counts tokens leaves a
    function that gives its CompletionUsage or PromptUsage in `request.state.usage`.
    """

    def __init__(
        self, app: ASGIApp, log: logging.Logger | None = None, form: LogFormat = "text"
    ) -> None:
        self._app, self._log, self._form = app, log, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, begun = datetime.now(UTC), time.monotonic()
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        status, complete, first = CALLER_GONE, False, None

        async def watched(message: Message) -> None:
            nonlocal status, complete, first
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID, request_id.encode("ascii"))]
                message = {**message, "headers": headers}
            elif first is None and message.get("body"):
                first = round(time.monotonic() - begun, 4)
            await send(message)
            complete = not message.get("more_body", message["type"] == "http.response.start")

        try:
            await self._app(scope, receive, watched)
        finally:
            if self._log is not None:
                usage = state["usage"]() if "usage" in state else None
                record = RequestRecord(
                    time=began.isoformat(timespec="milliseconds"),
                    id=request_id,
                    method=scope["method"],
                    path=quote(scope["path"][:_PATH_CHARACTERS], safe="/:"),
                    status=status,
                    complete=complete,
                    seconds=round(time.monotonic() - begun, 4),
                    first_seconds=first,
                    prompt_tokens=usage and usage.prompt_tokens,
                    completion_tokens=usage and getattr(usage, "completion_tokens", 0),
                )
                self._log.info(record.line(self._form))
        return None


def _request_id(scope: Scope) -> str:
    """The id that the client gave, if it can stand in a header and in a line; else a new one."""
    given = header(scope, REQUEST_ID)
    if given is not None and _SAFE_ID.fullmatch(given):
        return given.decode("ascii")
    return uuid.uuid4().hex
