"""What a constraint may cost: every limit, and hostile constraints, rejected or followed without
delay.
"""

import json
import random
import time
from typing import Any

import pytest
from constraints import BY_BYTES, BY_PIECES, BYTES, PIECES, allowed_ids, grammar, regex, schema

from puna.errors import RequestError
from puna.inference.constrain import check
from puna.inference.constraint_limits import ConstraintLimits, written_out
from puna.inference.request import Constraint

OBJECT, TO_A = {"type": "object"}, {"$ref": "#/$defs/a"}
TWO, THREE = {"anyOf": [OBJECT, OBJECT]}, {"a": True, "b": True, "c": True}

# Limits


@pytest.mark.parametrize(
    ("limit", "within", "beyond"),
    [
        ("max_bytes", schema({"title": "x" * 10}), schema({"title": "x" * 40})),
        (
            "max_depth",
            schema({"items": {"items": {}}}),
            schema({"items": {"items": {"items": {}}}}),
        ),
        ("max_depth", schema({"const": [[1]]}), schema({"const": [[[1]]]})),
        (
            "max_chain",
            schema(TO_A | {"$defs": {"a": {"items": {}}}}),
            schema(TO_A | {"$defs": {"a": {"items": {"$ref": "#"}}}}),
        ),
        ("max_nodes", schema({"maxItems": 1}), schema({"maxItems": 2})),
        (
            "max_properties",
            schema({"properties": {"a": {"required": ["b"]}}}),
            schema({"properties": {"a": {"required": ["b"]}, "c": {}}}),
        ),
        (
            "max_properties",
            schema({"const": {"a": 1, "b": 2}}),
            schema({"const": {"a": 1, "b": {"c": 2}}}),
        ),
        (
            "max_optional",
            schema({"properties": THREE, "required": ["c"]}),
            schema({"properties": THREE}),
        ),
        (
            "max_values",
            schema({"enum": [1, 2]}),
            schema({"anyOf": [{"enum": [1, 2]}, {"enum": [3]}]}),
        ),
        (
            "max_branches",
            schema({"anyOf": [OBJECT, OBJECT, {"type": "string"}]}),
            schema({"anyOf": [OBJECT, TO_A], "$defs": {"a": TWO}}),
        ),
        ("max_branches", schema({"allOf": [TWO]}), schema({"allOf": [TWO, TWO]})),
        ("max_branches", schema({"anyOf": [OBJECT, OBJECT]}), schema({"type": "array"})),
        ("max_count", schema({"minItems": 2}), schema({"maxProperties": 3})),
        ("max_length", schema({"minLength": 2}), schema({"maxLength": 3})),
        ("max_text", schema({"const": "ab"}), schema({"const": "abc"})),
        ("max_text", schema({"properties": {"ab": {}}}), schema({"properties": {"abc": {}}})),
        ("max_multiple", schema({"multipleOf": 2}), schema({"multipleOf": 0.3})),
        (
            "max_multiple",
            schema({"multipleOf": 2}),
            schema({"anyOf": [{"multipleOf": 2}, {"multipleOf": 3}]}),
        ),
        (
            "max_patterns",
            schema({"pattern": "a", "patternProperties": {"b": {}}}),
            schema({"allOf": [{"pattern": "a"}] * 3}),
        ),
        ("max_regex", regex("aa"), regex("aaa")),
        ("max_regex", schema({"pattern": "aa"}), schema({"pattern": "aaa"})),
        ("max_written_out", regex("a{2}"), regex("a{3}")),
        ("max_written_out", schema({"pattern": "a{2}"}), schema({"pattern": "(a{2}){2}"})),
        ("max_written_out", grammar("start: A\nA: /a/{2}"), grammar("start: A\nA: B{2}\nB: /c/~2")),
        (
            "max_alternatives",
            grammar('start: /a/ | /b/ | A\nA: "c"|"d"|"e"'),
            grammar("start: /a/ | /b/ | s\ns: /d/ | /e/"),
        ),
        ("max_rules", grammar("start: a\na: /a/"), grammar("start: (a)\na: /a/")),
    ],
)
def test_limits(limit: str, within: Constraint, beyond: Constraint) -> None:
    few = 40 if limit == "max_bytes" else 2
    limits = ConstraintLimits(**{limit: few})
    check(within, limits)
    with pytest.raises(
        RequestError, match=rf"asks for .* at most {few} are allowed here \({limit}: "
    ):
        check(beyond, limits)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(128)}},
            '{"p3":1, "p127":2}',
        ),
        (
            {
                "anyOf": [
                    {"type": "object", "properties": {"a": {"const": n}}, "required": ["a"]}
                    for n in range(64)
                ]
            },
            '{"a":63}',
        ),
        (
            {"anyOf": [{"type": "array", "items": {"const": [n]}} for n in range(16)]},
            "[[15], [15]]",
        ),
        (
            {
                "type": "object",
                "minProperties": 1,
                "properties": {f"p{n}": {} for n in range(21)},
                "additionalProperties": False,
            },
            '{"p20":{}}',
        ),
        ({"type": "object", "required": [f"p{n}" for n in range(1000)]}, '{"p0":1, "p1":2, "p2":3'),
        ({"enum": [f"value {n}" for n in range(1000)]}, '"value 999"'),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1000000}, "[null, null, null"),
        ({"type": "string", "minLength": 10000}, '"' + "a" * 200),
        ({"type": "integer", "multipleOf": 4999, "minimum": 0, "maximum": 10**12}, "499900004999"),
    ],
)
def test_what_the_limits_allow_is_followed(value: Any, text: str) -> None:
    """Else a text would break off in the middle, where an error could have said at once what is
    too much.
    """
    for constraint in (schema(value), grammar(f"start: value\nvalue: %json {json.dumps(value)}")):
        matcher = BY_BYTES.compile(constraint)
        assert all(matcher.accept(id_) for id_ in BYTES.encode(text))


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("a(bc){3}", 7),
        ("(a{3}){4}", 12),
        ("((a{9}){9}){9}", 729),
        ("a{2,5}b{3,}c{,4}", 12),
        ("a{0}b*c+d?", 4),
        ("ab|cd", 4),
        ("[abc]{5}", 5),
        ("[])(]{5}", 5),
        ("[^]){9}]{5}", 5),
        ("[a[b)]]{5}", 5),
        (r"[\])]{5}", 5),
        ("[[:alpha:]]{5}", 5),
        (r"\({5}", 5),
        (r"\p{Greek}{5}", 5),
        (r"\x{1F999}{2}", 2),
        ("(?i)a{3}", 3),
        ("(?:ab){3}", 6),
        ("(?P<name>ab){3}", 6),
        ("(?<name>ab){3}", 6),
        ("(?s:.{3}){3}", 9),
        ("a{b}", 4),
        ("a)b{3}", 5),
        ("(a{3}", 3),
        ("a{", 2),
        ("[a", 1),
        ("a\\", 2),
        ("(a|b{2}){3}", 9),
        ("a{999999999}" * 2, 1999999998),
        ("a{3}{4}", 12),
    ],
)
def test_sizes_of_regexes_written_out(pattern: str, size: int) -> None:
    assert written_out(pattern) == size


def doubled(levels: int, **siblings: Any) -> dict[str, Any]:
    """Each definition refers to the next twice."""
    refers = [
        {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/{n + 1}", **siblings} for name in "ab"},
        }
        for n in range(levels)
    ]
    return {"$ref": "#/$defs/0", "$defs": dict(enumerate([*refers, {"type": "object"}]))}


HOSTILE = {
    "a large array": schema({"type": "array", "minItems": 10**12}),
    "many arrays": schema(
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "array", "maxItems": 1000} for n in range(100)},
        }
    ),
    "a long text": schema({"type": "string", "minLength": 10**9}),
    "a large divisor": schema({"type": "integer", "multipleOf": 1_000_003}),
    "divisors without a common one": schema(
        {"type": "integer", "allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}
    ),
    "definitions that double": schema(doubled(40)),
    "definitions that double when combined": schema(doubled(40, minProperties=0)),
    "choices of choices": schema(
        {
            "allOf": [
                {"anyOf": [{"properties": {f"{name}{n}": {}}} for name in "ab"]} for n in range(30)
            ]
        }
    ),
    "arrays that begin alike": schema(
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 800}},
        }
    ),
    "objects that begin alike": schema(
        {
            "anyOf": [
                {"type": "object", "properties": {"a": {"$ref": "#"}, f"b{n}": {}}}
                for n in range(64)
            ]
        }
    ),
    "any of many properties": schema(
        {"type": "object", "properties": {f"p{n}": {"$ref": "#"} for n in range(128)}}
    ),
    "one of many properties": schema(
        {
            "type": "object",
            "properties": {f"p{n}": {} for n in range(21)},
            "minProperties": 1,
            "additionalProperties": False,
        }
    ),
    "a chain of definitions": schema(
        {
            "$ref": "#/$defs/0",
            "$defs": (
                {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(1500)}
                | {"1500": {}}
            ),
        }
    ),
    "deep": Constraint(kind="json_schema", text='{"items":' * 5000 + "{}" + "}" * 5000),
    "many values": schema({"enum": [f"value {n}" for n in range(3000)]}),
    "long values": schema({"enum": ["ab c" * 7000, "abd " * 7000]}),
    "patterns by turns": schema(
        {"anyOf": [{"type": "string", "pattern": f"a.{{{n}}}{n}b"} for n in range(64)]}
    ),
    "patterns of names": schema(
        {
            "type": "object",
            "patternProperties": {f"^(a|b)*{chr(97 + n)}(a|b|c){{{n}}}$": {} for n in range(26)},
        }
    ),
    "nested quantifiers": regex("(a+)+b"),
    "a count of counts": regex("((a{999}){999}){999}"),
    "optional letters": regex("a?" * 2000 + "a" * 90),
    "a subset construction": regex("(?s).*a.{1000}b"),
    "classes": regex(r"(\w\W\d\D\s\S)*" * 200),
    "any texts": regex("(.*)" * 500 + "q"),
    "deep brackets": regex("(" * 2000 + "a" + ")*" * 2000),
    "an ambiguous grammar": grammar('start: start start | start start start | "a" | ""'),
    "nothing in many ways": grammar(
        'start: a a a a a a a a\na: b b b b b b b b\nb: c c c c c c c c\nc: "x"?'
    ),
    "rules that begin alike": grammar(
        "start: " + " | ".join(f'"[" start "{n}"' for n in range(100))
    ),
    "counts of counts": grammar('start: a{1000}\na: b{1000}\nb: c{1000}\nc: "x"'),
    "a chain of rules": grammar(
        "start: a0\n" + "\n".join(f"a{n}: a{n + 1}" for n in range(5000)) + '\na5000: "x"'
    ),
    "a chain of terminals": grammar(
        "start: A0\n" + "\n".join(f"A{n}: (A{n + 1} /y/)?" for n in range(3000)) + "\nA3000: /x/"
    ),
    "terminals that double": grammar(
        "start: A0\n" + "\n".join(f"A{n}: A{n + 1} A{n + 1}" for n in range(40)) + "\nA40: /x/"
    ),
    "all at once": grammar(
        "start: A\nA: " + " & ".join(f"/(?s:.*{letter}.*)/" for letter in "abcdefghijklmnopq")
    ),
    "not this": grammar("start: A\nA: ~/(?s:.*)a(?s:.{0,30})b(?s:.*)/ & /[a-z]*/"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraints_cost_little(name: str) -> None:
    """Rejected or followed, but without delay. The bounds are ten times what was measured, since
    tests share their machine.
    """
    began = time.process_time()
    try:
        matcher = BY_PIECES.compile(HOSTILE[name])
    except RequestError:
        assert time.process_time() - began < 5
        return
    assert time.process_time() - began < 5
    for seed in range(4):
        rng = random.Random(seed)
        for _ in range(40):
            token = rng.choice(sorted(allowed_ids(matcher)))
            began = time.process_time()
            try:
                matcher.accept(token)
                matcher.allowed()
            except RequestError:
                return
            finally:
                assert time.process_time() - began < 0.5
            if matcher.finished:
                break
        matcher = BY_PIECES.compile(HOSTILE[name])


def test_a_step_that_costs_too_much_is_an_error_and_never_an_end() -> None:
    """The library, out of fuel, allows its end token; passed on, that would end the text as if it
    were whole.
    """
    matcher = BY_PIECES.compile(grammar('start: s\ns: s s | "a"'))
    letter = PIECES.encode("a")[0]
    with pytest.raises(RequestError, match=r"after \d+ tokens, the next asks for too much work"):
        all(matcher.accept(letter) for _ in range(5000))
    for again in (
        matcher.allowed,
        lambda: matcher.accept(PIECES.eos_id),
        lambda: matcher.rewind(1),
    ):
        with pytest.raises(RequestError, match="asks for too much work"):
            again()
