"""Rules across fields: their schemas mean here what they mean to a JSON schema validator."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.api.cross_field_rules import (
    CHAT_RULES,
    COMPLETION_RULES,
    RESPONSES_RULES,
    TOKENIZE_CHAT_RULES,
    WORDS_OR_CALLS,
    SchemaRule,
    broken_rule,
    holds,
    in_json_schema,
)

USER = {"role": "user", "content": "x"}
formats = st.sampled_from(["text", "json_object", "json_schema", "regex", "grammar"])
switches = st.sampled_from([None, True, False])
tools = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("f")}, optional={"strict": switches})}
)
requests = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.sampled_from([USER, {"role": "system", "content": "x"}]), min_size=1, max_size=2
        )
    },
    optional={
        "stream": switches,
        "stream_options": st.sampled_from([None, {}, {"include_usage": True}]),
        "logprobs": switches,
        "top_logprobs": st.sampled_from([None, 0, 2]),
        "ignore_eos": switches,
        "min_tokens": st.sampled_from([None, 0, 1]),
        "tools": st.none() | st.lists(tools, min_size=1, max_size=2),
        "tool_choice": st.sampled_from(
            [None, "none", "auto", "required", {"type": "function", "function": {"name": "f"}}]
        ),
        "response_format": st.none() | st.builds(dict, type=formats),
    },
)
items = st.sampled_from(
    [
        USER,
        {"role": "assistant", "content": "x"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
    ]
)
requests_of_responses = st.fixed_dictionaries(
    {"input": st.just("x") | st.lists(items, min_size=1, max_size=3)},
    optional={
        "stream": switches,
        "stream_options": st.sampled_from([None, {}]),
        "tools": st.none() | st.lists(st.fixed_dictionaries({"name": st.just("f")}), max_size=2),
        "tool_choice": st.sampled_from(
            [None, "none", "auto", "required", {"type": "function", "name": "f"}]
        ),
    },
)


@given(values=requests)
@pytest.mark.parametrize("rules", [CHAT_RULES, COMPLETION_RULES, TOKENIZE_CHAT_RULES])
def test_schemas_hold_where_a_validator_says_so(rules: Any, values: dict[str, Any]) -> None:
    judge(rules, values)


@given(values=requests_of_responses)
def test_so_do_those_of_responses(values: dict[str, Any]) -> None:
    judge(RESPONSES_RULES, values)


def judge(rules: Any, values: dict[str, Any]) -> None:
    """Each rule holds where a validator says so, and else complains of a part that is broken."""
    for rule in rules:
        if isinstance(rule, SchemaRule):
            valid = jsonschema.Draft202012Validator(rule.schema).is_valid(values)
            assert holds(rule.schema, values) == valid
            broken = [
                (field, reason)
                for part, field, reason in rule.complaints
                if not jsonschema.Draft202012Validator(part).is_valid(values)
            ]
            assert rule(values) == (None if valid else broken[0])
    if not jsonschema.Draft202012Validator(in_json_schema(rules)).is_valid(values):
        assert broken_rule(rules, values) is not None


@given(
    message=st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={
            "content": st.sampled_from([None, "", "x", ["x"]]),
            "tool_calls": st.sampled_from([None, [{"id": "1"}]]),
        },
    )
)
def test_an_assistant_says_words_or_calls(message: dict[str, Any]) -> None:
    valid = jsonschema.Draft202012Validator(WORDS_OR_CALLS).is_valid(message)
    assert holds(WORDS_OR_CALLS, message) == valid
    expected = None if valid else "messages[1].content"
    broken = broken_rule(CHAT_RULES, {"messages": [USER, message]})
    assert (broken and broken[0]) == expected


def test_numbers_are_no_switches() -> None:
    assert not holds({"const": True}, 1)
    assert not holds({"enum": [0, None]}, False)


@pytest.mark.parametrize(
    ("more", "field", "decider"),
    [
        (
            {"tool_choice": "required", "response_format": {"type": "regex"}},
            "ignore_eos",
            "tool_choice",
        ),
        ({"response_format": {"type": "regex"}}, "ignore_eos", "response_format"),
        ({"tools": [{"function": {"name": "f", "strict": True}}]}, "ignore_eos", "tools"),
        (
            {"response_format": {"type": "regex"}, "ignore_eos": None},
            "min_tokens",
            "response_format",
        ),
    ],
)
def test_the_strongest_decider_of_the_end_is_named(
    more: dict[str, Any], field: str, decider: str
) -> None:
    values = {"messages": [USER], "ignore_eos": True, "min_tokens": 1, **more}
    assert broken_rule(CHAT_RULES, values) == (
        field,
        f"cannot be set where {decider} decides the end",
    )
