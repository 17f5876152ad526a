"""What an answer with tools must look like: JSON schemas and a grammar made of the tools' own
schemas, for the engine to enforce.

A tool's schema may refer to its own definitions (`{"$ref": "#/$defs/Place"}`, as pydantic writes
them). Inside the schema of an answer it stands somewhere else, so its references are moved with it.
"""

import json
from collections.abc import Sequence
from typing import Any

from puna.api.formats import constraint_of, schema_constraint
from puna.api.messages import Function, NamedTool
from puna.api.protocol import ChatRequest
from puna.inference.request import Constraint
from puna.tokenizer.chat_template import CALL_SEPARATOR

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_PARAMETERS = {"type": "object"}


def answer_constraint(body: ChatRequest) -> Constraint | None:
    """What the engine is to hold an answer to; None: to nothing."""
    format_constraint = constraint_of(body.response_format)
    functions = [tool.function for tool in body.callable_tools]
    if not functions:
        return format_constraint
    if isinstance(body.tool_choice, NamedTool):
        functions = [
            function for function in functions if function.name == body.tool_choice.function.name
        ]
    if body.must_call:
        return schema_constraint(call_schema(functions))
    if format_constraint is not None:
        return schema_constraint(call_schema(functions, or_else=json.loads(format_constraint.text)))
    if any(function.strict for function in functions):
        return Constraint(kind="grammar", text=_words_or_calls(functions))
    return None


def call_schema(
    functions: Sequence[Function], or_else: Any = None, *, strict_only: bool = False
) -> dict[str, Any]:
    """The schema of one call of any of the functions, or of `or_else`. strict_only: parameters
    count where the function says strict.
    """
    definitions: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for place, function in enumerate(functions):
        parameters = _NO_PARAMETERS if function.parameters is None else function.parameters
        if strict_only and not function.strict:
            parameters = _ANY_PARAMETERS
        definitions[f"function{place}"] = _moved(parameters, f"#/$defs/function{place}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": function.name},
                    "parameters": {"$ref": f"#/$defs/function{place}"},
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


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to itself pointing to where it stands now."""
    if isinstance(schema, dict):
        return {
            key: (
                place + value[1:]
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else _moved(value, place)
            )
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    return schema
