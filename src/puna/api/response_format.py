"""Forms of an answer: `response_format`, and the constraint that it and the tools make for the
engine.

A schema is always enforced; `strict: true` also closes its objects (closed_objects.py). Besides
OpenAI's three formats there are two of our own: a regular expression, and a grammar in Lark's
notation, as llguidance reads them. Answers
that may or must be calls of tools are held to a JSON schema or a grammar made of the tools' own
schemas. Such a schema may refer to its own definitions (`{"$ref": "#/$defs/Place"}`, as pydantic
writes them); inside the schema of an answer its references get the path to where it is
there.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from puna.api.chat_messages import Function
from puna.api.closed_objects import closed
from puna.api.fields import AtMost, Name
from puna.config import Config
from puna.inference.request import Constraint
from puna.tokenizer.chat_template import CALL_SEPARATOR

Written = Annotated[str, Field(min_length=1), AtMost("schema_characters")]


class TextFormat(Config):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Config):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Config):
    """A JSON schema. Left out, any JSON value will do. name and description are for people."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = Field(default=None, description="no properties but those of the schema")


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


_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_PARAMETERS = {"type": "object"}


def answer_constraint(
    response_format: ResponseFormat | None,
    functions: Sequence[Function] = (),
    *,
    must_call: bool = False,
) -> Constraint | None:
    """The constraint of an answer in this format that may call these functions, or must; None:
    there is none. Raises RequestError for a strict schema whose objects cannot be closed.
    """
    constraint = _format_constraint(response_format)
    if not functions:
        return constraint
    if must_call:
        return _schema_constraint(call_schema(functions))
    if constraint is not None:
        return _schema_constraint(call_schema(functions, or_else=json.loads(constraint.text)))
    if any(function.strict for function in functions):
        return Constraint(kind="grammar", text=_words_or_calls(functions))
    return None


def _format_constraint(response_format: ResponseFormat | None) -> Constraint | None:
    match response_format:
        case JsonObjectFormat():
            return _schema_constraint({"type": "object"})
        case JsonSchemaFormat():
            named = response_format.json_schema
            schema = named.schema_ or {}
            return _schema_constraint(closed(schema) if named.strict else schema)
        case RegexFormat():
            return Constraint(kind="regex", text=response_format.regex)
        case GrammarFormat():
            return Constraint(kind="grammar", text=response_format.grammar)
        case _:
            return None


def _schema_constraint(schema: dict[str, Any]) -> Constraint:
    return Constraint(kind="json_schema", text=json.dumps(schema))


def call_schema(
    functions: Sequence[Function], or_else: Any = None, *, strict_only: bool = False
) -> dict[str, Any]:
    """The schema of one call of any of the functions, whose parameters are an object, or of
    `or_else`. strict_only: parameters count where the function says strict.
    """
    definitions: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for index, function in enumerate(functions):
        parameters = _NO_PARAMETERS if function.parameters is None else function.parameters
        if strict_only and not function.strict:
            parameters = _ANY_PARAMETERS
        if function.strict:
            parameters = closed(parameters)
        pointer = f"#/$defs/function{index}"
        definitions[f"function{index}"] = _moved(parameters, pointer)
        # beside the reference, as the schema may refer to itself in places where it is no object
        objects = {} if parameters.get("type") == "object" else _ANY_PARAMETERS
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": function.name},
                    "parameters": {**objects, "$ref": pointer},
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    if or_else is not None:
        definitions["answer"] = _moved(or_else, "#/$defs/answer")
        calls.append({"$ref": "#/$defs/answer"})
    return {"anyOf": calls, "$defs": definitions}


def _words_or_calls(functions: Sequence[Function]) -> str:
    """A grammar: calls that keep to the strict functions' schemas, or text that does not begin like
    one.
    """
    schema = json.dumps(call_schema(functions, strict_only=True))
    separator = json.dumps(CALL_SEPARATOR)
    return (
        f"start: WORDS | call ({separator} call)*\nWORDS: /(\\s*[^{{\\s](.|\\n)*)?/\ncall: %json"
        f" {schema}\n"
    )


def _moved(schema: Any, pointer: str) -> Any:
    """The schema with its references to itself pointing to where it stands now."""
    if isinstance(schema, dict):
        return {
            key: (
                pointer + value[1:]
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else _moved(value, pointer)
            )
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(part, pointer) for part in schema]
    return schema
