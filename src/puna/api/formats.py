"""What an answer must look like: `response_format`, and the constraint that the engine holds the
output to.

A schema is always enforced, whatever `strict` says. Besides OpenAI's three formats there are two of
our own: a regular expression, and a grammar in Lark's notation, as llguidance reads them.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from puna.api.fields import AtMost, Name
from puna.config import Config
from puna.inference.request import Constraint

Written = Annotated[str, Field(min_length=1), AtMost("schema_characters")]


class TextFormat(Config):
    """Whatever the model writes."""

    type: Literal["text"]


class JsonObjectFormat(Config):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Config):
    """A JSON schema. Left out, any JSON value will do. name and description are for people;
    `strict` changes nothing, see above.
    """

    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Config):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(Config):
    """Text that a regular expression matches from its beginning to its end."""

    type: Literal["regex"]
    regex: Written


class GrammarFormat(Config):
    """Text that a grammar in Lark's notation derives from its rule `start`."""

    type: Literal["grammar"]
    grammar: Written


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat,
    Field(discriminator="type"),
]


def constraint_of(format_: ResponseFormat | None) -> Constraint | None:
    """What the engine is to hold the output to, if anything."""
    match format_:
        case JsonObjectFormat():
            return schema_constraint({"type": "object"})
        case JsonSchemaFormat():
            return schema_constraint(format_.json_schema.schema_ or {})
        case RegexFormat():
            return Constraint(kind="regex", text=format_.regex)
        case GrammarFormat():
            return Constraint(kind="grammar", text=format_.grammar)
        case _:
            return None


def schema_constraint(schema: dict[str, Any]) -> Constraint:
    """JSON that keeps to `schema`."""
    return Constraint(kind="json_schema", text=json.dumps(schema))
