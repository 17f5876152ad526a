"""What benchmarks/constrain.py has followed: documents with their schemas, keywords, hostile
constraints. No program.
"""

from typing import Any

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
TREE = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
    },
    "required": ["value", "children"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "object",
        "properties": {
            "name": {"const": f"tool_{n}"},
            "arguments": {
                "type": "object",
                "properties": {f"argument_{k}": {"type": "string"} for k in range(n % 5 + 1)},
            },
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    for n in range(16)
]
DOCUMENTS: dict[str, tuple[Any, Any]] = {
    "people": (
        {"type": "array", "items": PERSON},
        [{"name": f"Ada Lovelace the {n}th", "age": 30 + n} for n in range(20)],
    ),
    "tree": (
        {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
        {
            "value": 1.5,
            "children": [
                {"value": n, "children": [{"value": -n, "children": []}] * 3} for n in range(8)
            ],
        },
    ),
    "tools": (
        {"type": "array", "items": {"anyOf": TOOLS}},
        [{"name": f"tool_{n}", "arguments": {"argument_0": "look it up"}} for n in range(16)],
    ),
    "labels": (
        {
            "type": "array",
            "items": {"enum": [f"label {n * 7919 % 1000} of a thousand" for n in range(1000)]},
        },
        [f"label {n} of a thousand" for n in range(0, 1000, 31)],
    ),
    "text": (
        {"type": "string", "maxLength": 5000},
        "The llama looked at the mountain, and the mountain said nothing. " * 20,
    ),
}
# What breaks the keyword, what does not
KEYWORDS: dict[str, tuple[Any, str, str]] = {
    "minLength": ({"type": "string", "minLength": 2}, '"a"', '"ab"'),
    "pattern": ({"type": "string", "pattern": "^a+$"}, '"b"', '"a"'),
    "pattern, a|b at ends": ({"type": "string", "pattern": "^a|b$"}, '"cc"', '"ac"'),
    "pattern, (?=": ({"type": "string", "pattern": "^(?=a)..$"}, '"bb"', '"ab"'),
    "format: date": ({"type": "string", "format": "date"}, '"2024-13-01"', '"2024-12-01"'),
    "format: date, leap": ({"type": "string", "format": "date"}, '"2023-02-29"', '"2024-02-29"'),
    "format: color": ({"type": "string", "format": "color"}, '"a"', '"red"'),
    "minimum": ({"type": "integer", "minimum": 5}, "4", "5"),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, "8", "14"),
    "multipleOf: 0.25": ({"type": "number", "multipleOf": 0.25}, "0.30", "0.50"),
    "const: 2^53 + 1": ({"const": 2**53 + 1}, "9007199254740992", "9007199254740993"),
    "maxItems": ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, "[1,2]", "[1]"),
    "uniqueItems": (
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        "[1,1]",
        "[1,2]",
    ),
    "contains": (
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 3}},
        "[1]",
        "[3]",
    ),
    "required": (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        "{}",
        '{"a":1}',
    ),
    "additional, escaped": (
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        '{"\\u0061":"x"}',
        '{"a":1}',
    ),
    "minProperties, repeated": (
        {"type": "object", "minProperties": 2},
        '{"a":1,"a":2}',
        '{"a":1,"b":2}',
    ),
    "propertyNames": ({"type": "object", "propertyNames": {"maxLength": 1}}, '{"ab":1}', '{"a":1}'),
    "dependentRequired": (
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        '{"a":1}',
        '{"a":1,"b":1}',
    ),
    "not": ({"type": "integer", "not": {"const": 3}}, "3", "4"),
    "if": ({"type": "integer", "if": {"minimum": 5}, "then": {"maximum": 6}}, "7", "5"),
    "oneOf, overlapping": (
        {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": 3}]},
        "2",
        "0",
    ),
    "allOf": (
        {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 4}]},
        "5",
        "3",
    ),
    "$ref elsewhere": ({"$ref": "https://example.com/a.json"}, "1", '"a"'),
    "minLenght": ({"type": "string", "minLenght": 2}, '"a"', '"ab"'),
}
# JSON schemas, regular expressions, grammars in Lark's notation
HOSTILE: dict[str, tuple[str, Any]] = {
    "maxItems: 10^9": ("json", {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}),
    "minItems: 10^5": ("json", {"type": "array", "items": {"type": "integer"}, "minItems": 10**5}),
    "minLength: 10^6": ("json", {"type": "string", "minLength": 10**6}),
    "multipleOf: 1000003": ("json", {"type": "integer", "multipleOf": 1_000_003}),
    "enum of 5,000": ("json", {"enum": [f"value {n}" for n in range(5000)]}),
    "1,000 properties": (
        "json",
        {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(1000)}},
    ),
    "400 arrays alike": (
        "json",
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 400}},
        },
    ),
    "16 arrays alike": (
        "json",
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 16}},
        },
    ),
    "64 objects alike": (
        "json",
        {
            "anyOf": [
                {"type": "object", "properties": {"a": {"$ref": "#"}, f"b{n}": {"type": "integer"}}}
                for n in range(64)
            ]
        },
    ),
    "$ref doubling, 24 deep": (
        "json",
        {
            "$ref": "#/$defs/0",
            "$defs": {
                str(n): {
                    "type": "object",
                    "properties": {
                        k: {"$ref": f"#/$defs/{n + 1}", "minProperties": 0} for k in "ab"
                    },
                }
                for n in range(24)
            }
            | {"24": {"type": "object"}},
        },
    ),
    "$ref chain of 3,000": (
        "json",
        {
            "$ref": "#/$defs/0",
            "$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(3000)} | {"3000": {}},
        },
    ),
    "5,000 arrays deep": ("json", '{"type":"array","items":' * 5000 + "{}" + "}" * 5000),
    "(a+)+b": ("regex", "(a+)+b"),
    "((a{999}){999}){999}": ("regex", "((a{999}){999}){999}"),
    ".*a.{1000}b": ("regex", ".*a.{1000}b"),
    "[ab]*a[ab]{20}c": ("regex", "[ab]*a[ab]{20}c"),
    "an ambiguous grammar": ("lark", 'start: s\ns: s s | s s s | "a"'),
    "90 rules alike": (
        "lark",
        "start: s\ns: " + " | ".join(f'"[" s s "{n}"' for n in range(90)) + ' | "x"',
    ),
    "400 rules alike": (
        "lark",
        "start: s\ns: " + " | ".join(f'"[" s s "{n}"' for n in range(400)) + ' | "x"',
    ),
    "a chain of 5,000 rules": (
        "lark",
        "start: a0\n" + "\n".join(f"a{n}: a{n + 1}" for n in range(5000)) + '\na5000: "x"',
    ),
}
