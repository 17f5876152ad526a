"""Answers with tools as constraints, held against the engine's own matcher: what they allow, and
what not.
"""

import json
import random
from typing import Any

import pytest
from said import said

from puna.api.closed_objects import closed
from puna.api.cross_field_rules import broken_rule
from puna.api.limits import Limits
from puna.api.protocol import ChatRequest
from puna.errors import RequestError
from puna.inference.constrain import ConstraintCompiler
from puna.inference.request import Constraint
from puna.tokenizer.tokenizer import Tokenizer

BOUNDS = {**Limits().model_dump(), "token_id": 499, "messages": 500}
PLACE: Any = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/Place"}},
    "required": ["place"],
    "additionalProperties": False,
    "$defs": {
        "Place": {"anyOf": [{"enum": ["Cusco", "Lima"]}, {"$ref": "#/$defs/Region"}]},
        "Region": {"const": "the coast"},
    },
}
WEATHER = {"name": "weather", "parameters": PLACE}
STOP = {"name": "stop"}
ANY = {"name": "any", "parameters": {"type": "object"}}


def call(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "parameters": arguments})


def asked(*functions: dict[str, Any], **more: Any) -> ChatRequest:
    tools = [{"type": "function", "function": function} for function in functions]
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools, **more}
    request = ChatRequest.model_validate(body, context={"most": BOUNDS})
    assert broken_rule(ChatRequest.rules, body) is None
    return request


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    rng = random.Random(0)
    words = [*call("weather", {"place": "Cusco"}).split(), "the", "coast", "stop", "; "]
    return Tokenizer.train((" ".join(rng.choices(words, k=30)) for _ in range(50)), 400)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer, tokenizer.vocab_size)


def allows(
    compiler: ConstraintCompiler, tokenizer: Tokenizer, constraint: Constraint | None, text: str
) -> bool:
    assert constraint is not None
    matcher = compiler.compile(constraint)
    return all(matcher.accept(id_) for id_ in tokenizer.encode(text)) and matcher.accept(
        tokenizer.eos_id
    )


def test_a_demanded_call_keeps_to_the_schema_of_its_tool(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    constraint = asked(WEATHER, STOP, tool_choice="required").constraint()
    for text in (
        call("weather", {"place": "Lima"}),
        call("weather", {"place": "the coast"}),
        call("stop", {}),
    ):
        assert allows(compiler, tokenizer, constraint, text)
    for text in (
        call("weather", {"place": "Bonn"}),
        call("weather", {}),
        call("stop", {"a": 1}),
        call("other", {}),
        "words",
        "",
    ):
        assert not allows(compiler, tokenizer, constraint, text)


def test_a_named_tool_is_the_only_one(compiler: ConstraintCompiler, tokenizer: Tokenizer) -> None:
    constraint = asked(
        WEATHER, STOP, tool_choice={"type": "function", "function": {"name": "stop"}}
    ).constraint()
    assert allows(compiler, tokenizer, constraint, call("stop", {}))
    assert not allows(compiler, tokenizer, constraint, call("weather", {"place": "Lima"}))


def test_tools_that_refer_to_definitions_of_one_name_do_not_meet(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    def refers(value: str) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/A"}},
            "required": ["a"],
            "$defs": {"A": {"const": value}},
        }

    functions = [{"name": name, "parameters": refers(name)} for name in ("one", "two")]
    format_ = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"$ref": "#/$defs/A", "$defs": {"A": {"const": 5}}}},
    }
    constraint = asked(*functions, response_format=format_).constraint()
    assert allows(compiler, tokenizer, constraint, call("one", {"a": "one"}))
    assert allows(compiler, tokenizer, constraint, call("two", {"a": "two"}))
    assert allows(compiler, tokenizer, constraint, "5")
    assert not allows(compiler, tokenizer, constraint, call("one", {"a": "two"}))


def test_a_recursive_schema_still_refers_to_itself(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    tree = {"type": "object", "properties": {"sub": {"$ref": "#"}}, "additionalProperties": False}
    constraint = asked({"name": "grow", "parameters": tree}, tool_choice="required").constraint()
    assert allows(compiler, tokenizer, constraint, call("grow", {"sub": {"sub": {}}}))
    assert not allows(compiler, tokenizer, constraint, call("grow", {"sub": {"sub": 1}}))


def test_strict_tools_leave_words_free_and_calls_right(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    constraint = asked({**WEATHER, "strict": True}, ANY).constraint()
    lima, anything = call("weather", {"place": "Lima"}), call("any", {"a": 1})
    for text in ("", "words {", "the\ncoast", " \n the", lima, anything, f"{lima}; {anything}"):
        assert allows(compiler, tokenizer, constraint, text), text
    for text in ("{", " {", call("weather", {"place": "Bonn"}), call("stop", {}), f"{lima} and"):
        assert not allows(compiler, tokenizer, constraint, text), text


def test_nothing_is_demanded_of_an_answer_that_may_be_words() -> None:
    assert asked(WEATHER).constraint() is None
    assert asked({**WEATHER, "strict": True}, tool_choice="none").constraint() is None


def test_a_schema_that_cannot_be_enforced_counts_only_where_it_would_be(
    compiler: ConstraintCompiler,
) -> None:
    odd = {"name": "odd", "parameters": {"type": "object", "uniqueItems": True}}
    assert asked(odd).constraint() is None
    constraint = asked(odd, tool_choice="required").constraint()
    assert constraint is not None
    with pytest.raises(RequestError, match="uniqueItems"):
        compiler.compile(constraint)


@pytest.mark.parametrize(
    ("parameters", "valid", "invalid"),
    [
        ({}, [{}, {"a": 1}], ["x", [], 1, None]),
        ({"properties": {"a": {"type": "null"}}, "required": ["a"]}, [{"a": None}], ["x", [], {}]),
        ({"type": ["object", "string"]}, [{}], ["x"]),
        ({"anyOf": [{"type": "object"}, {"type": "array"}]}, [{"a": 1}], [[], "x"]),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {}}}}, [{}], ["x", 3]),
        # the schema means arrays too where it refers to itself
        ({"properties": {"a": {"$ref": "#"}}}, [{"a": [1]}, {"a": {"a": "x"}}], [[1]]),
    ],
)
def test_the_arguments_of_a_demanded_call_are_an_object(
    compiler: ConstraintCompiler,
    tokenizer: Tokenizer,
    parameters: dict[str, Any],
    valid: list[Any],
    invalid: list[Any],
) -> None:
    """A schema without `type: object` gave a text or an array, which no client can take apart."""
    function = {"name": "f", "parameters": parameters}
    constraint = asked(function, tool_choice="required").constraint()
    for arguments in valid:
        assert allows(compiler, tokenizer, constraint, call("f", arguments)), arguments
    for arguments in invalid:
        assert not allows(compiler, tokenizer, constraint, call("f", arguments)), arguments


def test_strict_closes_the_objects_of_tools_and_answers(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    open_ = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    for strict in (True, False, None):
        function = {"name": "f", "parameters": open_, "strict": strict}
        format_ = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": open_, "strict": strict},
        }
        demanded = asked(function, tool_choice="required").constraint()
        answer = asked(function, tool_choice="none", response_format=format_).constraint()
        assert allows(compiler, tokenizer, demanded, call("f", {"a": 1}))
        assert allows(compiler, tokenizer, answer, '{"a": 1}')
        more = not strict
        assert allows(compiler, tokenizer, demanded, call("f", {"a": 1, "b": 2})) == more
        assert allows(compiler, tokenizer, answer, '{"a": 1, "b": 2}') == more
    chosen = asked({"name": "f", "parameters": open_, "strict": True}).constraint()
    assert allows(compiler, tokenizer, chosen, call("f", {"a": 1}))
    assert not allows(compiler, tokenizer, chosen, call("f", {"a": 1, "b": 2}))


CLOSED = {"additionalProperties": False}
P = {"properties": {"a": {}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (P, P | CLOSED),
        ({"type": "object"}, {"type": "object"} | CLOSED),
        ({"type": ["object", "null"]}, {"type": ["object", "null"]} | CLOSED),
        ({"type": "string"}, "same"),
        ({"type": 5, "allOf": 5}, "same"),  # what is no schema is told where schemas are read
        (True, True),
        # what an object says itself stays
        (P | {"additionalProperties": True}, P | {"additionalProperties": True}),
        (
            {"type": "object", "additionalProperties": P},
            {"type": "object", "additionalProperties": P | CLOSED},
        ),
        # inside
        (
            {"items": P, "prefixItems": [P], "$defs": {"A": P}},
            {"items": P | CLOSED, "prefixItems": [P | CLOSED], "$defs": {"A": P | CLOSED}},
        ),
        ({"properties": {"a": P}}, {"properties": {"a": P | CLOSED}} | CLOSED),
        ({"enum": [P], "default": P}, {"enum": [P], "default": P}),
        # a choice of objects; what is said of all of them stays open
        (
            {"type": "object", "anyOf": [P, {"type": "null"}]},
            {"type": "object", "anyOf": [P | CLOSED, {"type": "null"}]},
        ),
        ({"oneOf": [P, {"type": "object"}]}, {"oneOf": [P | CLOSED, {"type": "object"} | CLOSED]}),
        # branches that say which properties must be there
        (P | {"anyOf": [{"required": ["a"]}, {"type": "object"}]}, None),
        ({"allOf": [{"$ref": "#/$defs/A"}], "description": "x"}, "same"),
        ({"type": "object", "$ref": "#/$defs/A"}, "same"),
    ],
)
def test_objects_are_closed_where_all_their_properties_are_named(
    schema: Any, expected: Any
) -> None:
    if expected is None:
        expected = schema | CLOSED
    assert closed(schema) == (schema if expected == "same" else expected)


@pytest.mark.parametrize(
    ("schema", "parts"),
    [
        ({"allOf": [P, P]}, "allOf/0 and allOf/1"),
        (P | {"$ref": "#/$defs/A"}, "properties and $ref"),
        (P | {"anyOf": [P, {}]}, "properties and anyOf"),
        ({"items": {"allOf": [{"allOf": [P]}, {"$ref": "#"}]}}, "allOf/0 and allOf/1"),
    ],
)
def test_an_object_of_several_parts_is_not_closed_part_by_part(schema: Any, parts: str) -> None:
    """Each part closed would forbid the properties of the others."""
    with pytest.raises(RequestError, match=said(f"strict is true ... {parts} ... one place")):
        closed(schema)
    assert closed(schema | CLOSED) if "items" not in schema else True
