"""Errors of the endpoints, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

`message` is for people, `param` names the field at fault, `code` is a word for programs. Not here:
refusals from below the application, such as a wrong key (refusal.py). Nothing of a traceback ever
leaves: an error of our own is a 500 that says so, and the log has the rest.
"""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from puna.api.limits import TooManyRequests
from puna.api.refusal import kind_of
from puna.api.responses import ErrorDetail, ErrorResponse
from puna.engine_process.client import EngineStopped
from puna.errors import PunaError

log = logging.getLogger("puna.server")


class ApiError(PunaError):
    """What an endpoint answers instead of what was asked. param: the field at fault, as in
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
        """The JSON that says so."""
        return ErrorResponse(
            error=ErrorDetail(
                message=str(self), type=kind_of(self.status), param=self.param, code=self.code
            )
        )


def as_api_error(error: Exception) -> ApiError:
    """What any exception looks like from outside."""
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
            allowed = (error.headers or {}).get("Allow", "")
            return ApiError(
                405, f"this path takes {allowed}", code="method_not_allowed", headers=error.headers
            )
        case HTTPException():
            return ApiError(error.status_code, error.detail, headers=error.headers)
        case _:
            return ApiError(
                500, "the server failed at this request; its log says why", code="internal_error"
            )


def error_response(error: Exception) -> Response:
    """The answer to a request that ended so."""
    shown = as_api_error(error)
    return JSONResponse(shown.body().model_dump(), shown.status, shown.headers)


def answer_errors(app: FastAPI) -> None:
    """Let every exception that leaves an endpoint become an answer in this shape."""

    async def answer(_request: Request, error: Exception) -> Response:
        return error_response(error)

    for kind in (PunaError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
