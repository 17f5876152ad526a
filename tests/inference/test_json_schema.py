"""What a schema may say: examples by hand, and faults of all kinds of constraints, each named in
the message.
"""

import random
import re
from typing import Any

import pytest
from constraints import BY_BYTES, BY_PIECES, accepts, drawn, grammar, regex, schema

from puna.errors import RequestError
from puna.inference.constrain import check
from puna.inference.request import Constraint

# JSON


@pytest.mark.parametrize(
    ("value", "valid", "invalid"),
    [
        (
            {},
            ["1", "null", '"x"', '[1, {"a":[]}]', "-1.5e3"],
            ["", " 1", "1 ", "[1,  2]", "[1\n]", "nul", "{a:1}", "'a'", "01", "NaN"],
        ),
        (True, ["1", "{}"], [""]),
        ({"type": "object"}, ["{}", '{"a": 1, "b":[2]}'], ["[]", "1", '{"a" :1}', "{ }"]),
        ({"type": "integer"}, ["0", "-12"], ["1.0", "1e3", "00", "-"]),
        (
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
            ["1", "0.001", "1.5", "1.0"],
            ["0", "0.0", "1.51", "-1", "2"],
        ),
        ({"type": "integer", "multipleOf": 7, "minimum": 0}, ["0", "14"], ["-7", "8"]),
        (
            {"type": "string", "minLength": 2, "maxLength": 3},
            ['"ab"', '"é日🦙"', r'"\n\""'],
            ['"a"', '"abcd"', r'"\u0061b"', '"a\nb"'],
        ),
        (
            {"type": "string", "pattern": "^[a-c]+$", "maxLength": 3},
            ['"abc"'],
            ['""', '"abca"', '"d"'],
        ),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"a"']),
        (
            {"type": "string", "format": "date"},
            ['"2024-02-29"', '"2000-02-29"'],
            ['"2023-02-29"', '"1900-02-29"', '"2023-04-31"'],
        ),
        (
            {"format": "date-time", "type": "string"},
            ['"2024-02-29T23:59:59.5Z"'],
            ['"2023-02-29T00:00:00Z"', '"2024-01-01T00:00:60Z"'],
        ),
        (
            {"type": "string", "format": "time"},
            ['"12:30:00+01:00"'],
            ['"12:30:60Z"', '"24:00:00Z"'],
        ),
        ({"type": "string", "format": "ipv4"}, ['"127.0.0.1"'], ['"256.0.0.1"']),
        (
            {"enum": [1, "1", [1], {"a": None}]},
            ["1", '"1"', "[1]", '{"a":null}'],
            ["2", "[]", "{}"],
        ),
        ({"type": ["null", "boolean"]}, ["null", "true"], ["0"]),
        (
            {"type": "array", "prefixItems": [{"type": "null"}], "items": False},
            ["[]", "[null]"],
            ["[1]", "[null,null]"],
        ),
        (
            {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
            ["[null]", "[null,null]"],
            ["[]", "[null,null,null]"],
        ),
        ({"type": "array", "uniqueItems": False}, ["[1,1]"], ["1"]),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "null"}, "b": True},
                "required": ["b"],
                "additionalProperties": False,
            },
            ['{"b":1}', '{"a":null,"b":1}'],
            ["{}", '{"a":null}', '{"b":1,"a":null}', '{"b":1,"c":2}'],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 1},
            ["{}"],
            ['{"a":1}', '{"a":null,"b":null}'],
        ),
        (
            {"type": "object", "required": ["a"], "minProperties": 2},
            ['{"a":1,"b":2}'],
            ['{"a":1}', '{"a":1,"a":2}'],
        ),
        (
            {
                "type": "object",
                "patternProperties": {"^x": {"type": "null"}},
                "additionalProperties": False,
            },
            ['{"x1":null}'],
            ['{"a":null}'],
        ),
        (
            {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 0}]},
            ["null", '""'],
            ['"a"'],
        ),
        ({"oneOf": [{"type": "null"}, {"type": "boolean"}]}, ["null", "true"], ["1"]),
        (
            {
                "allOf": [{"properties": {"a": {"type": "null"}}}, {"required": ["a"]}],
                "type": "object",
            },
            ['{"a":null}'],
            ["{}", '{"a":1}'],
        ),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "null"}}}, ["null"], ["1"]),
        (
            {"type": "object", "properties": {"a": {"$ref": "#"}}, "additionalProperties": False},
            ['{"a":{"a":{}}}'],
            ['{"a":1}'],
        ),
        (
            {
                "prefixItems": [{"const": 1}, {"$ref": "#/prefixItems/0"}],
                "type": "array",
                "items": False,
            },
            ["[1,1]"],
            ["[1,2]"],
        ),
        (
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": "https://a.b/c",
                "type": "null",
            },
            ["null"],
            ["3"],
        ),
        (
            {
                "title": "t",
                "description": "d",
                "$comment": "c",
                "default": 3,
                "examples": [1],
                "const": 1,
            },
            ["1"],
            ["3"],
        ),
        ({"deprecated": True, "readOnly": True, "writeOnly": False, "const": 1}, ["1"], ["3"]),
        (
            {
                "contentMediaType": "application/json",
                "contentEncoding": "base64",
                "contentSchema": {"type": "nothing"},
                "const": "a",
            },
            ['"a"'],
            ["3"],
        ),
        (
            {"example": 3, "discriminator": {}, "externalDocs": {}, "xml": {}, "const": 1},
            ["1"],
            ["3"],
        ),
        # the library's own keyword too: it never reaches the library
        ({"x-order": 1, "x-guidance": {"lenient": True}, "const": 1}, ["1"], ["3"]),
        (
            {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": kind}},
                        "required": ["kind"],
                        "additionalProperties": False,
                    }
                    for kind in ("cat", "dog")
                ],
                "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}},
            },
            ['{"kind":"cat"}', '{"kind":"dog"}'],
            ['{"kind":"cow"}', "{}"],
        ),
        ({"type": "integer", "format": "int32"}, ["1"], ['"1"', "1.5"]),
        ({"type": "string", "format": "unknown", "maxLength": 1}, ['"a"'], ['"ab"', "1"]),
        # a declared name keeps to its own rule and to the pattern's
        (
            {
                "type": "object",
                "properties": {"ab": {"type": "integer"}},
                "patternProperties": {"^a": {"minimum": 3}},
                "additionalProperties": False,
            },
            ["{}", '{"ab":3}', '{"ac":"x"}', '{"ab":4,"ac":5}'],
            ['{"ab":2}', '{"ab":"x"}', '{"ac":2}', '{"b":3}'],
        ),
    ],
)
def test_schemas_by_hand(value: Any, valid: list[str], invalid: list[str]) -> None:
    constraint = schema(value)
    check(constraint)
    assert [text for text in valid if not accepts(constraint, text)] == []
    assert [text for text in invalid if accepts(constraint, text)] == []


def test_an_escaped_name_does_not_pass_for_another() -> None:
    r"""`"\u0061"` is the name a. Spelled so it would have been an additional property, with any
    value.
    """
    constraint = schema({"type": "object", "properties": {"a": {"type": "null"}}})
    assert accepts(constraint, '{"a":null}')
    assert not accepts(constraint, r'{"\u0061":1}')


@pytest.mark.parametrize(("pattern", "names"), [("^ab$", []), ("^[ab]$", ["a"]), ("^a", ["a"])])
def test_a_pattern_that_gives_more_names_than_the_declared_goes_on_to_the_end(
    pattern: str, names: list[str]
) -> None:
    """Where it gave none, 24 of 40 seeds ended midway behind a comma, in an error of the server."""
    constraint = schema(
        {
            "type": "object",
            "properties": {name: {"type": "null"} for name in names},
            "patternProperties": {pattern: {"type": "null"}},
            "additionalProperties": False,
        }
    )
    rng = random.Random(0)
    for _ in range(10):
        ids = list(drawn(BY_BYTES.compile(constraint), rng, 40))
        assert ids


# What is rejected


@pytest.mark.parametrize(
    "keyword",
    [
        "uniqueItems",
        "contains",
        "minContains",
        "not",
        "if",
        "then",
        "else",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedItems",
        "unevaluatedProperties",
        "additionalItems",
        "nullable",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$vocabulary",
        "id",
        "minLenght",
        "xguidance",
        "examples-",
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_keyword_that_would_not_be_enforced_is_rejected_by_name(
    keyword: str, inside: bool
) -> None:
    faulty = {"type": ["array", "object"], keyword: True}
    value = (
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}},
            "$defs": {"b": faulty},
        }
        if inside
        else faulty
    )
    with pytest.raises(
        RequestError, match=re.escape(f"`{keyword}` is not enforced here; ")
    ) as caught:
        check(schema(value))
    assert ("#/$defs/b" in str(caught.value)) == inside


def test_a_misspelled_keyword_is_told_the_right_one() -> None:
    with pytest.raises(RequestError, match="did you mean `minLength`"):
        check(schema({"type": "string", "minLenght": 3}))


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (schema(3), "a schema is an object, true or false"),
        (schema({"properties": []}), "#/properties"),
        (schema({"anyOf": []}), "one or more"),
        (schema({"type": "str"}), "none of null, boolean"),
        (schema({"type": ["null", "null"]}), "different"),
        (schema({"enum": []}), "one or more"),
        (schema({"required": ["a", "a"]}), "different names"),
        (schema({"minItems": -1}), "whole number"),
        (schema({"minItems": 1.5}), "whole number"),
        (schema({"minimum": "3"}), "no number"),
        (schema({"minimum": True}), "no number"),
        (schema({"exclusiveMinimum": True, "minimum": 3}), "no number"),  # as draft 4 had it
        (schema({"multipleOf": 0}), "not above 0"),
        (schema({"items": [{}]}), "a schema is an object"),  # as draft 2019-09 had it
        (schema({"pattern": 3}), "no regular expression"),
        (schema({"pattern": "("}), "unclosed group"),
        (schema({"pattern": "(?=a)b"}), "look-around"),
        (schema({"pattern": r"(a)\1"}), "backreferences"),
        (schema({"format": 3}), "no name of a format"),
        *(
            (
                schema(
                    {
                        "type": "object",
                        "properties": {name: {"type": "null"} for name in names},
                        "patternProperties": {pattern: {"type": "null"}},
                        "additionalProperties": False,
                    }
                ),
                "matches no name but those in `properties`",
            )
            for pattern, names in (
                ("^ab$", ["ab"]),
                ("^(a|b)$", ["a", "b", "c"]),
                ("^a$|^b$", ["b", "a"]),
                ("^[ab]$", ["a", "b"]),
                ("[^\\s\\S]", ["a"]),
            )
        ),
        (
            schema(
                {
                    "allOf": [
                        {"type": "object", "properties": {"ab": {}}},
                        {"patternProperties": {"^ab$": {}}},
                    ]
                }
            ),
            "matches no name but those in `properties`",
        ),
        (schema({"const": 2**53 + 1}), "no longer exact"),
        (schema({"const": "a\u0001"}), "control character"),
        (schema({"const": "\ud800"}), "surrogate"),
        # which two equal names would have met
        (schema({"type": "object", "minProperties": 2}), "name more of them"),
        (schema({"properties": {"a": {"$id": "b"}}}), "inner `\\$id`"),
        (schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "visibly exclude"),
        (schema({"$ref": "#/$defs/a"}), "leads nowhere"),
        (schema({"$ref": "#/$defs/a/3", "$defs": {"a": [{}]}}), "leads nowhere"),
        (schema({"$ref": "#a", "$defs": {"a": {}}}), "leads out"),
        (schema({"$ref": "https://example.com/schema.json"}), "nothing is fetched"),
        (schema({"$ref": "file:///etc/passwd"}), "nothing is fetched"),
        (schema({"$ref": "other.json#/a"}), "nothing is fetched"),
        (schema({"minimum": 3, "maximum": 2, "type": "integer"}), "greater than maximum"),
        (Constraint(kind="json_schema", text="{"), "not JSON"),
        (
            Constraint(kind="json_schema", text='{"type": "null", "type": "string"}'),
            "'type' stands twice",
        ),
        (Constraint(kind="json_schema", text='{"const": NaN}'), "NaN is no number in JSON"),
        (Constraint(kind="json_schema", text='{"maximum": 1e999}'), "more than a double holds"),
        (Constraint(kind="json_schema", text="[" * 5000), "nested too deeply"),
        (regex("("), "unclosed group"),
        (regex("a(?=b)"), "look-around"),
        (regex("\ud800"), "surrogate"),
        (regex("(?x) a"), "flag x"),
        (
            grammar('start: "a" <|end_of_text|>'),
            "line 1: '<|end_of_text|>' is not supported".replace("|", "\\|"),
        ),
        (grammar('start: "a"\n  | <[5]>'), "line 2"),
        (grammar("start: @other"), "not supported"),
        (grammar('start: a\na[max_tokens=3]: "a"'), "attribute 'max_tokens'"),
        (grammar('start: a\na[temperature=0.5]: "a"'), "attribute 'temperature'"),
        (grammar('start: a\na[capture]: "a"'), "attribute 'capture'"),
        (grammar('start: a\na[stop="x"]: /.*/'), "attribute 'stop'"),
        (
            grammar('%llguidance {"allow_invalid_utf8": true}\nstart: "a"'),
            "%llguidance is not supported",
        ),
        (grammar('%lark { "a" }'), "%lark is not supported"),
        (grammar('start: "a" %if true'), "%if is not supported"),
        (grammar("start: %json nonsense"), "no JSON after %json"),
        (grammar('begin: "a"'), "no start rule"),
        (grammar('{"grammars": []}'), "expecting rule"),
        (grammar("start: /a b/x"), "flag x"),
        (grammar('start: "a'), "not supported"),
    ],
)
def test_faults_are_named(constraint: Constraint, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check(constraint)
    with pytest.raises(RequestError, match=message):
        BY_PIECES.compile(constraint)


@pytest.mark.parametrize(
    "constraint",
    [
        schema(False),
        schema({"$ref": "#"}),
        schema(
            {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
        ),
        regex("[^\\s\\S]"),
        grammar("start: a\na: a"),
    ],
)
def test_what_no_text_matches_is_rejected_before_the_first_token(constraint: Constraint) -> None:
    with pytest.raises(RequestError):
        BY_PIECES.compile(constraint)
