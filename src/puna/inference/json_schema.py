"""JSON schemas of constraints: read, checked, and reduced to what is enforced, as the library takes
them. Nothing here knows tokens.

The schema is read as draft 2020-12, whatever `$schema` says. The keywords that `_Reader` reads hold
in every text that comes out; annotations say nothing about the text and are left out, as are
formats that are not enforced; any other keyword is rejected by name, since a rule that is accepted
and ignored is worse than none.
References are followed inside the schema only; nothing is ever fetched.

Stricter than the draft, so that every text that comes out is valid: the properties of an object
come in the order of `properties`, the formats of `FORMATS` are enforced, white space is at most one
blank after a comma or a colon, and only the escapes of `SPELLING` are written.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from math import lcm
from typing import Any, NoReturn
from urllib.parse import unquote

from puna import strict_json
from puna.errors import RequestError
from puna.inference.constraint_limits import (
    ConstraintLimits,
    Schema,
    check_definitions,
    check_regex,
    check_size,
)
from puna.inference.pattern_names import first_without_names
from puna.inference.schema_keywords import (
    CONTROLS,
    DESCRIPTIVE,
    EXACT,
    EXTENSION,
    FORMATS,
    IDENTIFYING,
    NARROWER,
    REMEDIES,
    SPELLING,
    TYPES,
)


def read_schema(text: str, limits: ConstraintLimits) -> dict[str, Any]:
    """The schema for llguidance: only what is enforced, every schema that is referred to in
    `$defs`, the whole one as "0".

    Raises RequestError, naming the path, for what is no schema, is not supported or asks for too
    much.
    """
    try:
        return _Reader(_parse(text, limits), limits).read()
    except RecursionError:
        raise RequestError(
            "the schema's definitions refer to one another in too long a chain; write fewer, larger"
            " ones"
        ) from None


def _parse(text: str, limits: ConstraintLimits) -> Any:
    """The value of a JSON text, of which no part is ignored."""
    try:
        return strict_json.parse(text)
    except RecursionError:
        raise RequestError(
            f"the schema is nested too deeply; at most {limits.max_depth} levels are allowed here"
        ) from None
    except strict_json.LoneSurrogateError:
        raise RequestError(
            "the schema holds half of a surrogate pair, which is no character; write the character"
            " itself"
        ) from None
    except ValueError as error:
        raise RequestError(
            f"the schema is not JSON: {error}; send the schema itself as JSON"
        ) from error


class _Reader:
    """One reading of one schema: the definitions found so far, and the counts that are limited over
    all of it.
    """

    def __init__(self, root: Any, limits: ConstraintLimits) -> None:
        self._root, self._limits = root, limits
        # Number of each definition in `$defs`, by its JSON pointer in parts; () is the whole schema
        self._numbers: dict[tuple[str, ...], int] = {(): 0}
        self._found: list[tuple[str, Any]] = [("#", root)]
        self._counts = {"max_properties": 0, "max_values": 0, "max_patterns": 0}
        self._multiple = 1
        self._names: set[str] = set()  # of properties, anywhere
        self._patterns: dict[str, str] = {}  # of names, with the path of one object that has it
        one, many, mapping, count, number = (
            self._inner,
            self._inner_list,
            self._inner_mapping,
            self._count,
            self._number,
        )
        self._keywords: Mapping[str, Callable[[Any, str, int], Any]] = {
            "$ref": self._reference,
            "type": self._type,
            "enum": self._enum,
            "const": self._value,
            **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), many),
            **dict.fromkeys(("items", "additionalProperties"), one),
            **dict.fromkeys(("properties", "patternProperties"), mapping),
            "required": self._required,
            **dict.fromkeys(
                (
                    "minItems",
                    "maxItems",
                    "minProperties",
                    "maxProperties",
                    "minLength",
                    "maxLength",
                ),
                count,
            ),
            "pattern": self._pattern,
            "format": self._format,
            **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), number),
            "multipleOf": self._multiple_of,
        }

    def read(self) -> dict[str, Any]:
        definitions: dict[str, Schema] = {}
        for number, (path, schema) in enumerate(self._found):  # grows meanwhile
            definitions[str(number)] = self._schema(schema, path, 0)
        check_definitions(definitions, self._limits)
        # all names, since objects may be combined
        pattern = first_without_names(self._patterns, self._names)
        if pattern is not None:
            self._reject(
                self._patterns[pattern],
                f"the pattern {pattern!r} matches no name but those in `properties`; say there what"
                " it says of them",
            )
        return {"$ref": "#/$defs/0", "$defs": definitions, "x-guidance": SPELLING}

    # Schemas

    def _schema(self, given: Any, path: str, depth: int) -> Schema:
        self._limit(depth, "max_depth", path)
        if isinstance(given, bool):
            return given
        if not isinstance(given, dict):
            self._reject(path, f"{given!r} is no schema; a schema is an object, true or false")
        # Only keywords that are enforced enter `reduced`; all others describe, or are rejected
        reduced: dict[str, Any] = {}
        for key, value in given.items():
            if key in self._keywords:
                reduced[key] = self._keywords[key](value, f"{path}/{key}", depth)
            elif not (
                key in DESCRIPTIVE | IDENTIFYING
                or key.startswith(EXTENSION)
                or (key, value) == ("uniqueItems", False)
            ):
                self._reject(path, self._unknown(key))
            elif key == "$id" and path != "#":
                self._reject(path, "an inner `$id` changes what references mean; leave it out")
        if reduced.get("format", "") not in FORMATS:
            reduced.pop("format", None)
        # For these formats the library accepts more than the standard does
        if narrower := NARROWER.get(reduced.get("format", "")):
            reduced["allOf"] = [*reduced.get("allOf", ()), {"pattern": narrower}]
        listed, required = reduced.get("properties", {}).keys(), set(reduced.get("required", ()))
        self._names |= listed | required
        self._add("max_properties", len(listed | required))
        self._limit(len(listed - required), "max_optional", f"{path}/properties")
        # names that are not listed may come twice
        if reduced.get("minProperties", 0) > len(required) + 1:
            self._reject(
                path,
                "`minProperties` can be at most one more than the names in `required`; name more of"
                " them there",
            )
        return reduced

    def _unknown(self, key: str) -> str:
        if key in REMEDIES:
            return f"`{key}` is not enforced here; {REMEDIES[key]}"
        near = difflib.get_close_matches(key, self._keywords, n=1)
        return (
            f"`{key}` is not enforced here;"
            f" {f'did you mean `{near[0]}`?' if near else 'leave it out'}"
        )

    def _inner(self, given: Any, path: str, depth: int) -> Schema:
        return self._schema(given, path, depth + 1)

    def _inner_list(self, given: Any, path: str, depth: int) -> list[Schema]:
        if not isinstance(given, list) or not given:
            self._reject(path, f"{given!r} is no list of schemas; give one or more")
        return [self._inner(each, f"{path}/{number}", depth) for number, each in enumerate(given)]

    def _inner_mapping(self, given: Any, path: str, depth: int) -> dict[str, Schema]:
        if not isinstance(given, dict):
            self._reject(path, f"{given!r} is no object of schemas")
        for name in given:
            if path.endswith("/patternProperties"):
                self._pattern(name, path, depth)
                self._patterns[name] = path
            self._limit(len(name), "max_text", path)
        return {name: self._inner(each, f"{path}/{name}", depth) for name, each in given.items()}

    def _reference(self, given: Any, path: str, _depth: int) -> str:
        if not isinstance(given, str) or not (given == "#" or given.startswith("#/")):
            self._reject(
                path,
                f"{given!r} leads out of the schema; nothing is fetched, so copy what it means into"
                " `$defs`",
            )
        # RFC 6901: ~1 before ~0, else ~01 would become a slash
        parts = tuple(
            unquote(part).replace("~1", "/").replace("~0", "~") for part in given.split("/")[1:]
        )
        target = self._root
        for part in parts:
            if (
                isinstance(target, list)
                and re.fullmatch("[0-9]{1,6}", part)
                and int(part) < len(target)
            ):
                target = target[int(part)]
            elif isinstance(target, dict) and part in target:
                target = target[part]
            else:
                self._reject(
                    path, f"{given!r} leads nowhere: there is no {part!r}; define it in `$defs`"
                )
        # Registered, not read: `read` comes to it later, so a schema may refer to itself
        if parts not in self._numbers:
            self._numbers[parts] = len(self._found)
            self._found.append((given, target))
        return f"#/$defs/{self._numbers[parts]}"

    # Values

    def _type(self, given: Any, path: str, _depth: int) -> Any:
        names = given if isinstance(given, list) else [given]
        if not names or any(name not in TYPES for name in names) or len(set(names)) < len(names):
            self._reject(
                path, f"{given!r} is none of {', '.join(TYPES)}, nor a list of different ones"
            )
        return given

    def _enum(self, given: Any, path: str, depth: int) -> list[Any]:
        if not isinstance(given, list) or not given:
            self._reject(path, f"{given!r} is no list of values; give one or more")
        self._add("max_values", len(given))
        return [self._value(each, path, depth) for each in given]

    def _value(self, given: Any, path: str, depth: int) -> Any:
        """A value that the text is to spell: it must be one that can be spelled exactly."""
        self._limit(depth, "max_depth", path)
        if isinstance(given, str):
            self._limit(len(given), "max_text", path)
            if found := CONTROLS.intersection(given):
                self._reject(
                    path, f"the control character {min(found)!r} is never written; leave it out"
                )
        elif isinstance(given, list):
            self._add("max_values", len(given))
            for each in given:
                self._value(each, path, depth + 1)
        elif isinstance(given, dict):
            self._add("max_properties", len(given))
            for name, each in given.items():
                self._limit(len(name), "max_text", path)
                self._value(each, path, depth + 1)
        elif given is not None:  # a number, true or false
            self._number(given, path, depth)
        return given

    def _required(self, given: Any, path: str, _depth: int) -> list[str]:
        if (
            not isinstance(given, list)
            or not all(isinstance(name, str) for name in given)
            or len(set(given)) < len(given)
        ):
            self._reject(path, f"{given!r} is no list of different names")
        for name in given:
            self._limit(len(name), "max_text", path)
        return given

    def _count(self, given: Any, path: str, _depth: int) -> int:
        if (
            isinstance(given, bool)
            or not isinstance(given, int | float)
            or given < 0
            or given != int(given)
        ):
            self._reject(path, f"{given!r} is no count; give a whole number of 0 or more")
        self._limit(int(given), "max_length" if path.endswith("Length") else "max_count", path)
        return int(given)

    def _pattern(self, given: Any, path: str, _depth: int) -> str:
        if not isinstance(given, str):
            self._reject(path, f"{given!r} is no regular expression")
        self._add("max_patterns", 1)
        check_regex(given, self._limits, f"the schema at {_shortened(path)}")
        return given

    def _format(self, given: Any, path: str, _depth: int) -> str:
        if not isinstance(given, str):
            self._reject(
                path, f"{given!r} is no name of a format; give one of {', '.join(FORMATS)}"
            )
        return given

    def _number(self, given: Any, path: str, _depth: int) -> int | float:
        if isinstance(given, bool) and path.rpartition("/")[2] not in ("const", "enum"):
            self._reject(path, f"{given!r} is no number")
        if not isinstance(given, int | float):
            self._reject(path, f"{given!r} is no number")
        if abs(given) > EXACT and given == int(given):
            self._reject(
                path, f"{given} is beyond 2^53, where numbers are no longer exact; use a text"
            )
        return given

    def _multiple_of(self, given: Any, path: str, depth: int) -> int | float:
        if self._number(given, path, depth) <= 0:
            self._reject(path, f"{given!r} is not above 0")
        # From the shortest decimal spelling: 0.1 is 1 unit of 10^-1, not the double's binary value
        _, digits, exponent = Decimal(repr(given)).as_tuple()
        units = int("".join(map(str, digits))) * 10 ** max(int(exponent), 0)
        self._multiple = lcm(self._multiple, units, 10 ** max(-int(exponent), 0))
        self._limit(self._multiple, "max_multiple", path)
        return int(given) if given == int(given) else float(given)

    def _add(self, name: str, count: int) -> None:
        self._counts[name] += count
        self._limit(self._counts[name], name, "#")

    def _limit(self, given: int, name: str, path: str) -> None:
        check_size(given, name, self._limits, f"the schema at {_shortened(path)}")

    def _reject(self, path: str, reason: str) -> NoReturn:
        raise RequestError(f"the schema at {_shortened(path)}: {_shortened(reason)}")


def _shortened(text: str) -> str:
    return text if len(text) < 400 else f"{text[:200]} ... {text[-200:]}"
