"""Cross-field validation of requests: each rule is a JSON schema, which the OpenAPI document shows
and `holds` checks, with the field at fault and the reason that callers are told.

Each schema is a choice ("either one is so, or the other"), the form that readers of such documents
cope with best. Rules that no schema can express, such as that a named tool is among the tools, are
functions beside them. The order of rules is that in which callers are told of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic.config import JsonDict

BrokenRule = tuple[str, str] | None
"""The field at fault and the reason, or None."""

Values = Mapping[str, Any]
"""The JSON object of a request, of which each field by itself is valid."""


@dataclass(frozen=True, slots=True)
class SchemaRule:
    """A rule as a JSON schema. complaints: where the rule is broken, the first part that is broken
    too gives the field at fault and the rest of the sentence; there is always one.
    """

    schema: JsonDict
    complaints: Sequence[tuple[JsonDict, str, str]]

    def __call__(self, values: Values) -> BrokenRule:
        """The field and the reason, if the rule is broken."""
        if holds(self.schema, values):
            return None
        return next(
            (field, reason) for part, field, reason in self.complaints if not holds(part, values)
        )


Rules = Sequence[SchemaRule | Callable[[Values], BrokenRule]]


def broken_rule(rules: Rules, values: Values) -> BrokenRule:
    """The first rule that is broken."""
    return next((broken for rule in rules if (broken := rule(values)) is not None), None)


def in_json_schema(rules: Rules) -> JsonDict:
    """The addition to the JSON schema of a request."""
    return {"allOf": [rule.schema for rule in rules if isinstance(rule, SchemaRule)]}


def holds(schema: JsonDict, value: Any) -> bool:
    """True if the value keeps to a schema of the keywords that are used here."""
    return all(_KEYWORDS[keyword](given, value) for keyword, given in schema.items())


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)  # Python takes 0 for False


_KEYWORDS: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        "anyOf": lambda schemas, value: any(holds(schema, value) for schema in schemas),
        "not": lambda schema, value: not holds(schema, value),
        "const": lambda constant, value: _same(constant, value),
        "enum": lambda constants, value: any(_same(each, value) for each in constants),
        "type": lambda name, value: value is None if name == "null" else isinstance(value, list),
        "properties": lambda fields, value: all(
            holds(schema, value[name]) for name, schema in fields.items() if name in value
        ),
        "required": lambda names, value: all(name in value for name in names),
        "items": lambda schema, value: (
            not isinstance(value, list) or all(holds(schema, item) for item in value)
        ),
        "contains": lambda schema, value: (
            not isinstance(value, list) or any(holds(schema, item) for item in value)
        ),
    }
)


def _either(*choices: JsonDict) -> JsonDict:
    """A schema: one of these holds, or several do."""
    return {"anyOf": list(choices)}


def _given(field: str, **described: Any) -> JsonDict:
    """A schema: the field is there, and is so."""
    return {**_where_given(field, **described), "required": [field]}


def _where_given(field: str, **described: Any) -> JsonDict:
    """A schema: the field is so, or left out."""
    return {"properties": {field: described}}


def _format_is(*types: str) -> JsonDict:
    """A schema: response_format is of one of these types, null or left out."""
    of_a_type = _given("type", enum=list(types))
    return _where_given("response_format", anyOf=[{"type": "null"}, of_a_type])


_NO_CALL = _given("tool_choice", const="none")

WORDS_OR_CALLS = _either(
    _given("content", **{"not": {"type": "null"}}),
    _given("tool_calls", **{"not": {"enum": [None, []]}}),
)
"""Of one message: an assistant's."""


def _rule(schema: JsonDict, field: str, reason: str) -> SchemaRule:
    """A rule with one field at fault."""
    return SchemaRule(schema, ((schema, field, reason),))


_NO_EOS_IGNORED = _where_given("ignore_eos", enum=[False, None])
_NO_LEAST_LENGTH = _where_given("min_tokens", enum=[0, None])


def _end_is_free(decider: str, *unless: JsonDict) -> SchemaRule:
    """The rule that nothing but the field `decider` decides the end of the answer; unless: schemas
    of requests in which it does not. One schema for both fields: each more in a request doubles the
    combinations that a generator of requests has to try.
    """
    free: JsonDict = {
        "properties": {**_NO_EOS_IGNORED["properties"], **_NO_LEAST_LENGTH["properties"]}  # type: ignore[dict-item]
    }
    reason = f"cannot be set where {decider} decides the end"
    return SchemaRule(
        _either(*unless, free),
        ((_NO_EOS_IGNORED, "ignore_eos", reason), (_NO_LEAST_LENGTH, "min_tokens", reason)),
    )


_STREAM_OPTIONS_NEED_A_STREAM = _rule(
    _either(_where_given("stream_options", type="null"), _given("stream", const=True)),
    "stream_options",
    "is for streams: set stream to true, or leave it out",
)
_SOME_TOKENS = SchemaRule(
    {
        "properties": {
            name: {"not": {"const": 0}} for name in ("max_completion_tokens", "max_tokens")
        }
    },
    tuple(
        (
            _where_given(name, **{"not": {"const": 0}}),
            name,
            "is 0, but an answer has at least 1 token; -1 is the same as leaving it out",
        )
        for name in ("max_completion_tokens", "max_tokens")
    ),
)
_FORCED_CALL = _end_is_free("tool_choice", _where_given("tool_choice", enum=["auto", "none", None]))
_FORMAT = _end_is_free("response_format", _format_is("text"))
_STRICT_TOOL = _end_is_free(
    "tools",
    _where_given(
        "tools", items=_where_given("function", **_where_given("strict", enum=[False, None]))
    ),
    _NO_CALL,
)
_ALTERNATIVES_NEED_LOGPROBS = _rule(
    _either(_where_given("top_logprobs", type="null"), _given("logprobs", const=True)),
    "top_logprobs",
    "needs logprobs: true",
)
_TEXT_FORMS_LEAVE_NO_CALLS = _rule(
    _either(
        _where_given("tools", type="null"),
        _NO_CALL,
        _format_is("text", "json_object", "json_schema"),
    ),
    "response_format",
    "cannot be a text's form where tools may be called: set tool_choice to none",
)
_TOOLS_HAVE_A_PLACE = _given(
    "messages", contains=_given("role", enum=["user", "system", "developer"])
)
_TOOLS_NEED_A_PLACE = _rule(
    _either(_where_given("tools", type="null"), _TOOLS_HAVE_A_PLACE),
    "tools",
    "are described in the first user message, or else the first system message, but there is"
    " neither; add one",
)
_CHOICE_NEEDS_TOOLS_AND_TOOLS_A_PLACE = SchemaRule(
    _either(
        {"properties": {"tools": {"type": "null"}, "tool_choice": {"type": "null"}}},
        {
            "properties": {"tools": {"type": "array"}, **_TOOLS_HAVE_A_PLACE["properties"]},  # type: ignore[dict-item]
            "required": ["tools"],
        },
    ),
    (
        (
            _either(_where_given("tool_choice", type="null"), _given("tools", type="array")),
            "tool_choice",
            "needs tools to choose from",
        ),
        *_TOOLS_NEED_A_PLACE.complaints,
    ),
)


def _tools_have_names_of_their_own(values: Values) -> BrokenRule:
    names = _tool_names(values)
    twice = next((name for name in names if names.count(name) > 1), None)
    return None if twice is None else ("tools", f"two of them are called {twice}")


def _tools_take_objects(values: Values) -> BrokenRule:
    for index, tool in enumerate(values.get("tools") or ()):
        function, place = tool.get("function", tool), "function." * ("function" in tool)
        kinds = (function.get("parameters") or {}).get("type", "object")
        if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
            return (
                f"tools[{index}].{place}parameters.type",
                f"is {kinds}, but the arguments of a call are an object; write object",
            )
    return None


def _nothing_is_thrown_away(values: Values) -> BrokenRule:
    n, best_of = values.get("n") or 1, values.get("best_of")
    if best_of in (None, 1, n):
        return None
    return (
        "best_of",
        f"is {best_of} with n = {n}, but nothing is generated to be thrown away; ask for n",
    )


def _named_tool_exists(values: Values) -> BrokenRule:
    choice = values.get("tool_choice")
    if not isinstance(choice, dict) or _function_name(choice) in _tool_names(values):
        return None
    return "tool_choice", f"there is no tool {_function_name(choice)} among the tools"


def _tool_names(values: Values) -> list[str]:
    return [_function_name(tool) for tool in values.get("tools") or ()]


def _function_name(tool: Values) -> str:
    """Of a tool or a choice: a chat has it inside `function`, a request for a response beside."""
    name: str = tool.get("function", tool)["name"]
    return name


def _messages_fit_those_before(values: Values) -> BrokenRule:
    called: set[str] = set()
    for index, message in enumerate(values["messages"]):
        if message["role"] == "assistant":
            if not holds(WORDS_OR_CALLS, message):
                reason = "an assistant's message has content, tool_calls, or both"
                return f"messages[{index}].content", reason
            called |= {call["id"] for call in message.get("tool_calls") or ()}
        elif message["role"] == "tool" and message["tool_call_id"] not in called:
            reason = "no message before calls a tool under this id"
            return f"messages[{index}].tool_call_id", reason
    return None


_NO_TOOLS = _where_given("tools", anyOf=[{"type": "null"}, {"const": []}])
_NOTHING_DEMANDED = _where_given("tool_choice", enum=["none", "auto", None])
_SOME_TOOLS = _given("tools", type="array", contains={})
# a text is the words of a user, and instructions are a system message
_INPUT_HAS_A_PLACE = _either(
    _given("instructions", **{"not": {"type": "null"}}),
    _where_given("input", contains=_given("role", enum=["user", "system", "developer"])),
)
_DEMANDS_NEED_TOOLS_AND_TOOLS_A_PLACE = SchemaRule(
    _either(
        {"properties": {**_NO_TOOLS["properties"], **_NOTHING_DEMANDED["properties"]}},  # type: ignore[dict-item]
        {**_SOME_TOOLS, **_INPUT_HAS_A_PLACE},
    ),
    (
        (_either(_NOTHING_DEMANDED, _SOME_TOOLS), "tool_choice", "needs tools to choose from"),
        (
            _either(_NO_TOOLS, _INPUT_HAS_A_PLACE),
            "tools",
            "are described in the first user message, or else in the instructions, but there are"
            " neither; add one",
        ),
    ),
)


def _outputs_answer_calls_before(values: Values) -> BrokenRule:
    items = values["input"] if isinstance(values["input"], list) else []
    called: set[str] = set()
    for index, item in enumerate(items):
        if item.get("type") == "function_call":
            called.add(item["call_id"])
        elif item.get("type") == "function_call_output" and item["call_id"] not in called:
            return f"input[{index}].call_id", "no item before calls a function under this id"
    return None


# The decider of the end that is named first is the strongest: a forced call comes before a format,
# a format before the tools.
COMPLETION_RULES: Rules = (_STREAM_OPTIONS_NEED_A_STREAM, _FORMAT, _nothing_is_thrown_away)
CHAT_RULES: Rules = (
    _SOME_TOKENS,
    _ALTERNATIVES_NEED_LOGPROBS,
    _STREAM_OPTIONS_NEED_A_STREAM,
    _FORCED_CALL,
    _FORMAT,
    _STRICT_TOOL,
    _CHOICE_NEEDS_TOOLS_AND_TOOLS_A_PLACE,
    _tools_have_names_of_their_own,
    _tools_take_objects,
    _named_tool_exists,
    _TEXT_FORMS_LEAVE_NO_CALLS,
    _messages_fit_those_before,
)
TOKENIZE_CHAT_RULES: Rules = (_TOOLS_NEED_A_PLACE, _messages_fit_those_before)
RESPONSES_RULES: Rules = (
    _STREAM_OPTIONS_NEED_A_STREAM,
    _DEMANDS_NEED_TOOLS_AND_TOOLS_A_PLACE,
    _tools_have_names_of_their_own,
    _tools_take_objects,
    _named_tool_exists,
    _outputs_answer_calls_before,
)
