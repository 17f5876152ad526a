"""An ASGI application called without a server: a scope in, what was sent out."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Answer:
    """What an application sent."""

    status: int | None = None
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape; all its parts must be there."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def http_scope(
    path: str = "/v1/models", headers: Sequence[tuple[bytes, bytes]] = (), **more: Any
) -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": list(headers),
        "client": ("127.0.0.1", 5000),
        **more,
    }


async def call(app: ASGIApp, scope: Scope, messages: Sequence[Message] = ()) -> Answer:
    """Call once; what the caller sends is `messages`, and then nothing for ever."""
    answer, waiting = Answer(), list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], dict(message["headers"])
        else:
            answer.body += message["body"]

    await app(scope, receive, send)
    return answer


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it got: body and caller."""
    body = (
        (await receive())["body"]
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        else b""
    )
    caller = str(scope.get("state", {}).get("caller", "")).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"caller", caller)]})
    await send({"type": "http.response.body", "body": body})
