"""Error responses, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

`message` is for people, `param` names the field at fault, `code` is a word for programs. Nothing of
a traceback ever leaves: an error of our own is a 500 that says so, and the log has the rest. Not
here: errors of the middleware, such as a wrong key (server/http_error.py).
"""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from puna.api.limits import TooManyRequests
from puna.api.responses import Answer
from puna.engine_process.client import EngineStopped
from puna.errors import PunaError

log = logging.getLogger("puna.server")


class ErrorDetail(Answer):
    """The error itself, for people and for programs."""

    message: str
    type: str = Field(
        description=(
            "invalid_request_error, or server_error where the caller can do nothing about it"
        )
    )
    param: str | None = Field(description="the field at fault")
    code: str | None = Field(description="a word for programs, such as context_length_exceeded")


class ErrorResponse(Answer):
    """The answer to a request that cannot be served."""

    error: ErrorDetail


class ApiError(PunaError):
    """An error that an endpoint answers with. param: the field at fault, as in
    `messages[0].content`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> ErrorResponse:
        """Its JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        detail = ErrorDetail(message=str(self), type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=detail)


def as_api_error(error: Exception) -> ApiError:
    """Any exception as callers see it."""
    match error:
        case ApiError():
            return error
        case TooManyRequests():
            return ApiError(
                429,
                str(error),
                code="rate_limit_exceeded",
                headers={"retry-after": str(error.retry_after)},
            )
        case EngineStopped():
            return ApiError(503, str(error), code="engine_stopped")
        case PunaError():
            return ApiError(400, str(error), code="invalid_request")
        case HTTPException(status_code=404):
            return ApiError(
                404,
                "there is nothing at this path; /openapi.json lists what there is",
                code="unknown_path",
            )
        case HTTPException(status_code=405):
            methods = set((error.headers or {}).get("Allow", "").split(", "))
            # as server/middleware/request_line.py serves it
            allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
            return ApiError(
                405,
                f"this path takes {allowed}",
                code="method_not_allowed",
                headers={"allow": allowed},
            )
        case HTTPException():
            return ApiError(error.status_code, error.detail, headers=error.headers)
        case _:
            return ApiError(
                500, "the server failed at this request; its log says why", code="internal_error"
            )


def handle_errors(app: FastAPI) -> None:
    """Turn every exception that leaves an endpoint into an answer in this shape."""

    async def answer(_request: Request, error: Exception) -> Response:
        shown = as_api_error(error)
        return JSONResponse(shown.body().model_dump(), shown.status, shown.headers)

    for kind in (PunaError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
