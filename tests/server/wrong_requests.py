"""Requests that no server of ours can serve, one for each way of being wrong, and the code of the
error that says so.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from raw_http import request_bytes

TEXT = "/v1/completions"


@cache
def wrong_requests(model: str) -> Sequence[tuple[str, bytes]]:
    """The code and the request, whose model is there."""

    def completion(**more: Any) -> bytes:
        return request_bytes(
            "POST", TEXT, {"model": model, "prompt": "the llama", "max_tokens": 5} | more
        )

    return (
        ("unknown_path", request_bytes("GET", "/nothing")),
        ("method_not_allowed", request_bytes("GET", TEXT)),
        ("model_not_found", completion(model="other")),
        ("unsupported_field", completion(suffix="end")),
        ("unsupported_field", completion(no_such_field=1)),
        ("invalid_value", completion(temperature=-1)),
        ("invalid_value", completion(max_tokens=-2)),
        ("invalid_value", completion(prompt=[10**6])),
        ("invalid_value", completion(response_format={"type": "regex", "regex": "("})),
        ("invalid_json", request_bytes("POST", TEXT, b'{"model": ')),
        ("json_too_deep", request_bytes("POST", TEXT, b"[" * 1000)),
        (
            "unsupported_media_type",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "body_too_large",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
        ),
        ("host_not_allowed", b"GET /health HTTP/1.1\r\nHost: example.org\r\n\r\n"),
        ("headers_too_large", request_bytes("GET", "/health", None, b"X: " + b"y" * 20_000)),
        ("invalid_http", b"nonsense\r\n\r\n"),
    )
