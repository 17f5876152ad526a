"""Types of fields with rules beyond their type: bounds by this server's limits, ids of a
vocabulary, fields without support or without effect.

Markers for `Annotated`. Each both checks a value and describes itself in the OpenAPI document.
Bounds that depend on the server are given when a request is read, as `context={"most": {...}}` from
a bound's name to its number (`Service.bounds` makes it); the document gets them from openapi.py.
Large values are checked as a whole first, so that the time to reject a body does not grow with the
number of its errors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

TOKEN_ID = "token_id"
"""The bound's name of the largest id of a vocabulary."""

MESSAGES = "messages"
"""The bound's name of the number of messages that a context may hold."""

CONTEXT_LENGTH = "context_length_exceeded"
"""OpenAI's name of the problem of a prompt that is too long."""

BOUND = "x-bound"
"""The key at which a field's description names its bound, until openapi.py puts the
number there.
"""


MODEL_NAME = "x-model-name"
"""The key that marks a field as the name of a model, until openapi.py lists them."""


def _most(info: ValidationInfo, bound: str) -> int:
    assert info.context is not None, "bounds come with the request"
    most: int = info.context["most"][bound]
    return most


@dataclass(frozen=True, slots=True)
class AtMost:
    """A number up to the bound of this name; of a text, a list or an object, its length, which is
    looked at before anything in it.

    problem: the type of pydantic's error where there is too much.
    """

    bound: str
    problem: str = "too_many"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), BOUND: self.bound}

    def _check(self, value: Any, validate: Callable[[Any], Any], info: ValidationInfo) -> Any:
        most = _most(info, self.bound)
        if isinstance(value, str | list | dict) and len(value) > most:
            what = "characters" if isinstance(value, str) else "entries"
            raise PydanticCustomError(
                self.problem,
                "has {size} {what}, more than {most}",
                {"size": len(value), "what": what, "most": most},
            )
        checked = validate(value)
        if isinstance(checked, int) and checked > most:
            raise PydanticCustomError("too_large", "must be at most {most}", {"most": most})
        return checked


@dataclass(frozen=True, slots=True)
class KnownIds:
    """A list of ids, or an object whose keys are ids as texts: none beyond the vocabulary. Not each
    by itself, as there may be many.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(schema)
        part = "items" if described["type"] == "array" else "propertyNames"
        return {**described, part: {**described.get(part, {}), BOUND: TOKEN_ID}}

    def _check(
        self, value: list[int] | dict[str, float], info: ValidationInfo
    ) -> list[int] | dict[str, float]:
        most, largest = _most(info, TOKEN_ID), max(map(int, value), default=0)
        if largest > most:
            raise PydanticCustomError(
                "too_large",
                "holds {largest}, but the largest id here is {most}",
                {"largest": largest, "most": most},
            )
        return value


@dataclass(frozen=True, slots=True)
class NotSupported:
    """A field that OpenAI's interface has and Puna has not: only values that change nothing are
    taken. why: the end of a sentence.
    """

    why: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "description": f"not supported: {self.why}"}

    def _check(self, value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            checked = validate(value)
            if type(checked) is type(value):  # Python takes 0 for False
                return checked
        except ValidationError:
            pass
        raise PydanticCustomError(
            "not_supported", "is not supported: {why}; leave it out", {"why": self.why}
        )


@dataclass(frozen=True, slots=True)
class NoEffect:
    """A field of OpenAI's interface that changes nothing here, whatever its value. why: the end of
    a sentence.
    """

    why: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "description": f"changes nothing: {self.why}"}


TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True), KnownIds()]
TokenBiases = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    KnownIds(),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
SomeProbability = Annotated[float, Field(gt=0, le=1)]
StopText = Annotated[str, AtMost("stop_characters")]
MostTokens = Annotated[int, Field(ge=-1, lt=2**63)]
"""Tokens at most; -1 as if left out. More than there is room for is cut to that."""
ModelName = Annotated[str, Field(json_schema_extra={MODEL_NAME: True})]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]

# Prompts that are texts or ids, one or several in one field
Text = Annotated[str, Field(min_length=1)]
Ids = Annotated[
    list[TokenId],
    Field(min_length=1, fail_fast=True),
    KnownIds(),
    AtMost("prompt_tokens", CONTEXT_LENGTH),
]
_Several = (Field(min_length=1, fail_fast=True), AtMost("prompts"))


def _kind(value: Any) -> str:
    """The kind that such a field is meant to be, by its first entry, so that a long list is checked
    as one kind only.
    """
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    if isinstance(first, list):
        return "lists of ids"
    return "ids" if isinstance(first, int | float) else "texts"


Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], *_Several, Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], *_Several, Tag("lists of ids")],
    Discriminator(_kind),
]
"""The prompts of completions: a text may be empty."""

Inputs = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], *_Several, Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], *_Several, Tag("lists of ids")],
    Discriminator(_kind),
]
"""The inputs of embeddings."""


def prompts_in(field: str | list[str] | list[int] | list[list[int]]) -> Sequence[str | list[int]]:
    """Every prompt that a field holds."""
    if isinstance(field, str):
        return [field]
    ids = [id_ for id_ in field if isinstance(id_, int)]
    return [ids] if ids else [one for one in field if not isinstance(one, int)]
