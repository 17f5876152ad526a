"""What no single field of a request can say, as JSON schemas: for the OpenAPI document, so that
what it allows is accepted.

`broken_rule` of the requests in protocol.py says the same to callers, with the reason. Each rule is
a choice ("either one is so, or the other"), the form that readers of such documents cope with best.
What a schema cannot say is only said there: that a named tool is among the tools, and that a tool's
answer names a call.
"""

from typing import Any

from pydantic.config import JsonDict


def either(*choices: JsonDict) -> JsonDict:
    """A schema: one of these holds, or several do."""
    return {"anyOf": list(choices)}


def given(field: str, **described: Any) -> JsonDict:
    """A schema: the field is there, and is so."""
    return {**where_given(field, **described), "required": [field]}


def where_given(field: str, **described: Any) -> JsonDict:
    """A schema: the field is so, or left out."""
    return {"properties": {field: described}}


def format_is(*types: str) -> JsonDict:
    """A schema: response_format is of one of these types, null or left out."""
    return where_given("response_format", anyOf=[{"type": "null"}, given("type", enum=list(types))])


_END_IS_FREE: JsonDict = {
    "properties": {"ignore_eos": {"enum": [False, None]}, "min_tokens": {"enum": [0, None]}}
}
_NO_TOOLS = where_given("tools", type="null")
_NO_CALL = given("tool_choice", const="none")

STREAM_OPTIONS_NEED_A_STREAM = either(
    where_given("stream_options", type="null"), given("stream", const=True)
)
A_FORMAT_DECIDES_THE_END = either(format_is("text"), _END_IS_FREE)
A_FORCED_CALL_DECIDES_THE_END = either(
    where_given("tool_choice", enum=["auto", "none", None]), _END_IS_FREE
)
A_STRICT_TOOL_DECIDES_THE_END = either(
    where_given(
        "tools", items=where_given("function", **where_given("strict", enum=[False, None]))
    ),
    _NO_CALL,
    _END_IS_FREE,
)
ALTERNATIVES_NEED_LOGPROBS = either(
    where_given("top_logprobs", type="null"), given("logprobs", const=True)
)
A_CHOICE_NEEDS_TOOLS_AND_TOOLS_A_USER = either(
    {"properties": {"tools": {"type": "null"}, "tool_choice": {"type": "null"}}},
    {
        "properties": {
            "tools": {"type": "array"},
            "messages": {"contains": given("role", const="user")},
        },
        "required": ["tools"],
    },
)
A_FORM_OF_TEXT_LEAVES_NO_CALLS = either(
    _NO_TOOLS, _NO_CALL, format_is("text", "json_object", "json_schema")
)
WORDS_OR_CALLS = either(
    given("content", **{"not": {"type": "null"}}),
    given("tool_calls", type="array"),
)
