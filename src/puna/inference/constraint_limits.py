"""Limits of constraints, so that none stops the engine, and the sizes of regular expressions and
schemas written out.

The text of a constraint comes from whoever sends requests, and a hundred bytes can ask for more
than a machine has: `((a{999}){999}){999}`, definitions that each refer to the next twice, a choice
among thousands of schemas that begin alike. The defaults keep the worst of such cases to about a
second of compiling and some tens of milliseconds a step (benchmarks/constrain.py). They are checked
before the library sees the text, since some of its own limits take effect after the work, and its
stack has none. What is supported stands elsewhere.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from pydantic import Field

from puna.config import Config
from puna.errors import RequestError

Schema = dict[str, Any] | bool


class ConstraintLimits(Config):
    """The most that one constraint may ask for; more is a RequestError that names the limit."""

    max_bytes: int = Field(
        default=65_536, gt=0, description="UTF-8 bytes of the schema, regular expression or grammar"
    )
    max_depth: int = Field(
        default=32, gt=0, description="schemas inside schemas, and values inside const, enum"
    )
    max_chain: int = Field(
        default=400,
        gt=0,
        description="levels down to references, of all definitions; a stack of 8 MiB holds 1,500",
    )
    max_nodes: int = Field(
        default=20_000, gt=0, description="schemas in all, with those that are combined written out"
    )
    max_properties: int = Field(default=1_000, gt=0, description="named properties in all")
    max_optional: int = Field(
        default=128, gt=0, description="properties of one object that may be left out"
    )
    max_values: int = Field(default=1_000, gt=0, description="values of enum in all")
    max_branches: int = Field(
        default=64,
        gt=0,
        description="objects among which one subschema chooses, and arrays, which count 4",
    )
    max_count: int = Field(
        default=1_000_000, gt=0, description="minItems, maxItems, minProperties, maxProperties"
    )
    max_length: int = Field(default=10_000, gt=0, description="minLength, maxLength")
    max_text: int = Field(
        default=2_000,
        gt=0,
        description="characters of a property's name and of a text in const, enum",
    )
    max_multiple: int = Field(
        default=5_000,
        gt=0,
        description="least common multiple of all multipleOf, in units of their last digit",
    )
    max_patterns: int = Field(default=64, gt=0, description="pattern and patternProperties in all")
    max_regex: int = Field(default=4_096, gt=0, description="characters of one regular expression")
    max_written_out: int = Field(
        default=10_000, gt=0, description="the same with counted repetitions written out"
    )
    max_alternatives: int = Field(
        default=100, gt=0, description="alternatives in all rules of a grammar"
    )
    max_rules: int = Field(
        default=512, gt=0, description="rules and terminals of a grammar, and brackets in them"
    )


DEFAULT_LIMITS = ConstraintLimits()


def check_size(given: int, name: str, limits: ConstraintLimits, subject: str) -> None:
    """Raise RequestError, naming the limit, if `given` is more than the limit `name` allows.
    subject: what asks for it.
    """
    allowed: int = getattr(limits, name)
    if given > allowed:
        asked = f"{given:,}" if given < 10**15 else "far more"
        rule = ConstraintLimits.model_fields[name].description
        raise RequestError(
            f"{subject} asks for {asked}, but at most {allowed:,} are allowed here"
            f" ({name}: {rule}); ask for less"
        )


def check_text(text: str, limits: ConstraintLimits, subject: str) -> None:
    """Raise RequestError for the text of a constraint that is too long, or none that UTF-8 can
    hold.
    """
    try:
        check_size(len(text.encode()), "max_bytes", limits, subject)
    except UnicodeEncodeError:
        raise RequestError(
            f"{subject} holds half of a surrogate pair, which is no character; write the character"
            " itself"
        ) from None


def check_regex(regex: str, limits: ConstraintLimits, subject: str) -> None:
    """Raise RequestError for a regular expression that is too long, as it stands or written out.
    Its syntax is the library's to check.
    """
    check_size(len(regex), "max_regex", limits, subject)
    check_size(written_out(regex), "max_written_out", limits, subject)


def check_definitions(definitions: Mapping[str, Schema], limits: ConstraintLimits) -> None:
    """Raise RequestError for schemas that come to too much when a grammar is made of them.

    definitions: by name; references among them are `{"$ref": ".../name"}`, and their keywords are
    sound.
    """
    check_size(
        sum(_levels(schema) for schema in definitions.values()), "max_chain", limits, "the schema"
    )
    measure = _Measure(definitions)
    check_size(measure.branches, "max_branches", limits, "the schema")
    check_size(measure.nodes, "max_nodes", limits, "the schema")


_GROUP = re.compile(r"\?(?:P?<[^>]*>|(?P<flags>[A-Za-z-]*)(?P<end>[:)]))")
_COUNT = re.compile(r"\{\s*(\d{0,9})\s*(?:,\s*(\d{0,9})\s*)?\}")
_ESCAPE = re.compile(r"\\(?:[pPxuU]\{[^}]*\}|.)", re.DOTALL)


def written_out(regex: str) -> int:
    """Number of characters and classes of a regular expression with its counted repetitions written
    out: 7 for `a(bc){3}`.

    Raises RequestError for the flag x, under which comments would hide brackets from the count.
    """
    # sums: sizes of the open groups, outermost first; last: of the item that a count would repeat
    sums, last, position = [0], 0, 0
    while position < len(regex):
        character, position = regex[position], position + 1
        if character == "(":
            if group := _GROUP.match(regex, position):
                position = group.end()
                if "x" in (group["flags"] or ""):
                    raise RequestError(
                        f"the regular expression {regex[:80]!r} sets the flag x, which is not"
                        " supported; write it without spaces"
                    )
                if group["end"] == ")":
                    continue
            sums.append(0)
            last = 0  # a count right after a bracket repeats nothing
        elif character == ")" and len(sums) > 1:
            last = sums.pop()
            sums[-1] += last
        elif character == "{" and (count := _COUNT.match(regex, position - 1)):
            position = count.end()
            # By the greater bound, at least 1: {0} counts the item once all the same
            more = last * (max(int(count[1] or 0), int(count[2] or 0), 1) - 1)
            sums[-1] += more
            last += more
        elif character not in "*+?|":
            position = _end_of_item(regex, position - 1)
            sums[-1] += 1
            last = 1
    return sum(sums)


def _end_of_item(regex: str, start: int) -> int:
    """The position after the character, escape or class that begins at `start`. Classes may stand
    inside classes.
    """
    if escape := _ESCAPE.match(regex, start):
        return escape.end()
    if regex[start] != "[":
        return start + 1
    # Nested classes, [a[bc]], are counted by depth; an unclosed one reaches to the end
    depth, position = 0, start
    while position < len(regex):
        if escape := _ESCAPE.match(regex, position):
            position = escape.end()
            continue
        if regex[position] == "[":
            depth += 1
            position += 1
            for first in "^]":  # a bracket that closes at once is a character
                position += regex.startswith(first, position)
            continue
        depth -= regex[position] == "]"
        position += 1
        if depth == 0:
            break
    return position


class _Size(NamedTuple):
    objects: int
    """Among how many objects a text may choose where the schema stands."""
    arrays: int
    """The same of arrays."""
    nodes: int
    """Schemas that it comes to, a reference counting 1."""
    inlined: int
    """The same when it is combined with another schema: then what it refers to is copied."""


class _Measure:
    """Sizes of definitions when a grammar is made of them.

    Schemas that hold together (`allOf`, or several of `anyOf`, `$ref`, `properties`, ... side by
    side) become one: every choice of the one with every choice of the other, and references among
    them copied. So a few hundred bytes can come to billions of schemas.
    """

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._sizes: dict[str, _Size] = {}
        self.branches = 0
        self.nodes = sum(self._referred(name).nodes for name in definitions)

    def _referred(self, name: str) -> _Size:
        if name not in self._sizes:
            self._sizes[name] = _Size(1, 1, 1, 1)  # what a circle finds
            self._sizes[name] = self._size(self._definitions[name])
        return self._sizes[name]

    def _size(self, schema: Schema) -> _Size:
        if isinstance(schema, bool):
            return _Size(schema, schema, 1, 1)
        objects, arrays = _kinds(schema)
        own = 1 + len(schema.get("enum", ())) + self._inside(schema)
        # how many hold at once
        together = int(bool(schema.keys() - {"anyOf", "oneOf", "allOf", "$ref"}))
        parts = []
        # Branches are alternatives, so their sizes add up; parts hold together, so they multiply
        for key in schema.keys() & {"anyOf", "oneOf"}:
            branches = [self._size(each) for each in schema[key]]
            parts.append(_Size(*(sum(column) for column in zip(*branches, strict=True))))
        parts += [self._size(each) for each in schema.get("allOf", ())]
        if "$ref" in schema:
            parts.append(self._referred(schema["$ref"].rpartition("/")[2])._replace(nodes=1))
        for part in parts:
            objects, arrays = objects * part.objects, arrays * part.arrays
        # `combined`: every choice of every part is written out, with references copied into it
        inlined = own + sum(part.inlined for part in parts)
        combined = together + len(parts) > 1
        nodes = (
            max(1, objects + arrays) * inlined
            if combined
            else own + sum(part.nodes for part in parts)
        )
        self.branches = max(self.branches, objects + 4 * arrays)
        # Capped, since products of products outgrow machine words; far above any limit
        return _Size(
            *(min(count, 10**15) for count in (objects, arrays, nodes, max(nodes, inlined)))
        )

    def _inside(self, schema: dict[str, Any]) -> int:
        """Nodes of what stands inside an object or an array."""
        count = sum(self._size(each).nodes for each in _inner(schema))
        # doubled and doubled again
        return count + int(schema.get("maxItems", schema.get("minItems", 0))).bit_length()


def _inner(schema: dict[str, Any]) -> Iterator[Schema]:
    """The schemas of what stands inside an object or an array."""
    for key in ("properties", "patternProperties"):
        yield from schema.get(key, {}).values()
    yield from schema.get("prefixItems", ())
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield schema[key]


def _levels(schema: Schema) -> int:
    """Depth of the deepest reference in a schema; 0 without one. The library descends from
    definition to definition so.
    """
    if isinstance(schema, bool):
        return 0
    parts = chain(_inner(schema), *(schema.get(key, ()) for key in ("anyOf", "oneOf", "allOf")))
    deepest = max((_levels(each) for each in parts), default=0)
    return deepest + 1 if deepest or "$ref" in schema else 0


def _kinds(schema: dict[str, Any]) -> tuple[int, int]:
    """Among how many objects and arrays a text may choose, as far as the schema itself says."""
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return sum(isinstance(value, dict) for value in values), sum(
            isinstance(value, list) for value in values
        )
    types = schema.get("type", ("object", "array"))
    objects = int("object" in types)
    if objects and schema.keys() & {"minProperties", "maxProperties"}:
        # One for each property that may be left out; where one must be there, each comes with all
        # the others
        optional = len(schema.get("properties", {}).keys() - set(schema.get("required", ())))
        objects = max(1, optional * (3 if schema.get("minProperties") else 1))
    return objects, int("array" in types)
