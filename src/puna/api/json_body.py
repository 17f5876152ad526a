"""From the bytes of a request to its checked values, or a 400 that names the field at fault.

The JSON is taken at its word: no key twice, no NaN, no number beyond what a double holds, no half
of a surrogate pair, nothing but UTF-8. Size, time and nesting were checked before
(server/middleware/body_limit.py).
Cost, measured on one core: 0.01 ms for a short chat, 13 ms for 100,000 ids.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from puna import strict_json
from puna.api.cross_field_rules import broken_rule
from puna.api.error_response import ApiError
from puna.api.fields import CONTEXT_LENGTH
from puna.api.foreign_fields import FOREIGN_FIELDS
from puna.api.protocol import RequestBody
from puna.api.service import Service

B = TypeVar("B", bound=RequestBody)

_CODES = {
    "not_supported": "unsupported_field",
    "extra_forbidden": "unsupported_field",
    CONTEXT_LENGTH: CONTEXT_LENGTH,
}
_SHOWN = 60
_MOST_KEYS = 10_000  # of one object, each of which may be wrong


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _SHOWN


class JsonBody(Generic[B]):
    """A FastAPI dependency: the body of a request as a `kind`, in the bounds of the model that it
    names.
    """

    def __init__(self, kind: type[B], service: Service) -> None:
        self._kind, self._service = kind, service

    async def __call__(self, request: Request) -> B:
        """Read and check. Raises ApiError."""
        return self.check(await read_json(request))

    def check(self, values: Any) -> B:
        """The values as a `kind`. Raises ApiError, a 400 that names the field."""
        model = values.get("model") if isinstance(values, dict) else None
        bounds = self._service.bounds(model if isinstance(model, str) else None)
        try:
            body = self._kind.model_validate(values, context={"most": bounds})
        except ValidationError as error:
            raise field_error(error, values) from None
        broken = broken_rule(self._kind.rules, values)
        if broken is not None:
            field, reason = broken
            raise ApiError(400, f"{field}: {reason}", param=field, code="invalid_value")
        return body


async def read_json(request: Request) -> Any:
    """The body as a JSON value. Raises ApiError: 415 for another content type, 400 where it is
    not JSON.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            415,
            f"the content type is {kind[:_SHOWN]!r}; send application/json",
            code="unsupported_media_type",
        )
    return parse_json(await request.body())


def parse_json(body: bytes) -> Any:
    """A JSON value from UTF-8. Raises ApiError, a 400 with the reason."""
    try:
        return strict_json.parse(body.decode("utf-8"), whole_numbers=True, max_keys=_MOST_KEYS)
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: byte {error.start} is no part of a character"
    except RecursionError:
        message = "the body nests too deep"
    except strict_json.LoneSurrogateError:
        message = "a text in the body holds half of a surrogate pair, which is no character"
    except ValueError as error:
        message = f"the body is not valid JSON: {error}"
    raise ApiError(400, message, code="invalid_json")


def field_error(error: ValidationError, values: Any) -> ApiError:
    """The 400 for values that do not fit: the field at fault, by its deepest name, and all its
    errors.

    Where a field may be of several kinds, pydantic gives the errors as each of them. The kind whose
    type it has was meant, or else the one that went deepest.
    """
    problems = [(_path(problem, values), problem) for problem in error.errors(include_url=False)]
    problems.sort(
        key=lambda found: (
            found[1]["type"] != "not_supported",
            _of_wrong_type(found[1]),
            -len(found[0]),
        )
    )
    path, first = problems[0]
    param = _dotted(path)
    alike = [
        problem
        for other, problem in problems
        if other == path and _of_wrong_type(problem) == _of_wrong_type(first)
    ]
    why = "; ".join(dict.fromkeys(map(_reason, alike)))
    code = _CODES.get(first["type"], "invalid_value")
    return ApiError(400, f"{param or 'the body'}: {why}", param=param or None, code=code)


def _path(problem: ErrorDetails, values: Any) -> tuple[int | str, ...]:
    """The keys and indices on the way to the problem, without pydantic's names for the alternatives
    that it tried.
    """
    path: list[int | str] = []
    for step in problem["loc"]:
        is_key = isinstance(values, Mapping) and step in values
        is_index = isinstance(values, list) and isinstance(step, int) and step < len(values)
        if is_key or is_index:
            path.append(step)
            values = values[step]
    match problem["type"]:
        case "missing":
            path.append(problem["loc"][-1])
        case "union_tag_invalid" | "union_tag_not_found":
            path.append(problem["ctx"]["discriminator"].strip("'"))
    return tuple(path)


def _of_wrong_type(problem: ErrorDetails) -> bool:
    return problem["type"].endswith("_type")


def _dotted(path: Sequence[int | str]) -> str:
    return "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in path
    ).removeprefix(".")


def _reason(problem: ErrorDetails) -> str:
    match problem["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            instead = (
                FOREIGN_FIELDS.get(str(problem["loc"][0])) if len(problem["loc"]) == 1 else None
            )
            return "there is no such field" + (
                f"; chats and completions have {instead}" if instead else ""
            )
        case "not_supported":
            return problem["msg"]
        case _:
            return f"{problem['msg']} (it is {_SHORT.repr(problem['input'])[: 2 * _SHOWN]})"
