"""Schemas drawn at random, each with at least one finite value, and a walk that writes a text by
nothing but what a matcher allows.
"""

import random
import re
import string
from typing import Any

import numpy as np

from puna.inference.constrain import Matcher
from puna.tokenizer.tokenizer import Tokenizer

PATTERNS = (
    "^[a-c]{2,4}$",
    "^(ab|cd)+[0-9]?$",
    "^[w-z]*x",
    "^[A-Z][a-z]*( [A-Z][a-z]*){0,2}$",
    '^["\\\\/]{1,3}$',
    "^\\d{3}-\\w{2}\\s?$",
    "^(é|日)",
    "^$",
    "^.{3}$",
)
FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
TEXTS = (
    "",
    "a",
    "naïve 東京",
    'say "no"',
    "back\\slash",
    "tab\tline\n",
    "🦙",
    "a/b",
    "null",
    "<|end_of_text|>",
)
NAMES = ("id", "name", "a b", "é", 'q"', "x/y", "~t", "%41", "n\n", "$ref", "required")


class SchemaMaker:
    """Draws schemas. Definitions refer to later ones anywhere, and to any where the value may be
    left out.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.later: list[str] = []  # definitions that may stand anywhere
        self.names: list[str] = []

    def make(self) -> Any:
        self.names = [f"d{number}" for number in range(self.rng.randint(0, 3))]
        definitions = {}
        for number, name in enumerate(self.names):
            self.later = self.names[number + 1 :]
            definitions[name] = self.schema(2)
        self.later = self.names
        schema = self.schema(3)
        if self.names and isinstance(schema, dict):
            schema = schema | {"$defs": definitions}
        elif self.names:
            schema = {"$defs": definitions}
        if isinstance(schema, dict) and self.rng.random() < 0.3:
            schema = {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "any",
                "description": "drawn",
            } | schema
        return schema

    def schema(self, depth: int) -> Any:
        makers = [self.scalar, self.integer, self.number, self.text, self.choice]
        if depth > 0:
            makers += [self.array, self.object, self.object, self.any_of, self.one_of, self.all_of]
        if self.later:
            makers.append(lambda _depth: {"$ref": f"#/$defs/{self.rng.choice(self.later)}"})
        return self.rng.choice(makers)(depth)

    def optional(self, depth: int) -> Any:
        """A schema for what may be left out of an object or array: here a definition may refer to
        itself.
        """
        if self.names and self.rng.random() < 0.4:
            return {"$ref": f"#/$defs/{self.rng.choice(self.names)}"}
        return self.schema(depth)

    def inner(self, depth: int) -> Any:
        """A schema for what an object or array must hold: here a definition may refer to itself
        beside something else.
        """
        if self.names and self.rng.random() < 0.2:
            return {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{self.rng.choice(self.names)}"}]}
        return self.schema(depth)

    def scalar(self, _depth: int) -> Any:
        return self.rng.choice(
            [
                True,
                {},
                {"type": "null"},
                {"type": "boolean"},
                {"type": ["null", "string"]},
                {"type": ["integer", "array"]},
            ]
        )

    def integer(self, _depth: int) -> Any:
        schema: dict[str, Any] = {"type": "integer"}
        low = self.rng.randint(-1000, 1000)
        if self.rng.random() < 0.6:
            schema[self.rng.choice(["minimum", "exclusiveMinimum"])] = low
        if self.rng.random() < 0.6:
            schema[self.rng.choice(["maximum", "exclusiveMaximum"])] = low + self.rng.randint(
                30, 2000
            )
        if self.rng.random() < 0.3:
            schema["multipleOf"] = self.rng.choice([1, 2, 3, 7, 10, 12])
        return schema

    def number(self, _depth: int) -> Any:
        schema: dict[str, Any] = {"type": "number"}
        low = round(self.rng.uniform(-100, 100), self.rng.randint(0, 3))
        if self.rng.random() < 0.6:
            schema[self.rng.choice(["minimum", "exclusiveMinimum"])] = low
        if self.rng.random() < 0.6:
            schema[self.rng.choice(["maximum", "exclusiveMaximum"])] = low + self.rng.choice(
                [1, 2.5, 1000]
            )
        if self.rng.random() < 0.2:
            schema["multipleOf"] = self.rng.choice([0.5, 0.25, 1])
        return schema

    def text(self, _depth: int) -> Any:
        schema: dict[str, Any] = {"type": "string"}
        kind = self.rng.random()
        if kind < 0.4:
            low = self.rng.randint(0, 6)
            schema |= self.rng.choice(
                [
                    {"minLength": low},
                    {"maxLength": low},
                    {"minLength": low, "maxLength": low + self.rng.randint(0, 4)},
                ]
            )
        elif kind < 0.7:
            schema["pattern"] = self.rng.choice(PATTERNS)
        elif kind < 0.9:
            schema["format"] = self.rng.choice(FORMATS)
        return schema

    def choice(self, _depth: int) -> Any:
        values = [self.value(2) for _ in range(self.rng.randint(1, 4))]
        return {"const": values[0]} if self.rng.random() < 0.3 else {"enum": values}

    def value(self, depth: int) -> Any:
        kind = self.rng.randint(0, 6 if depth else 4)
        if kind == 5:
            return [self.value(depth - 1) for _ in range(self.rng.randint(0, 3))]
        if kind == 6:
            return {
                name: self.value(depth - 1)
                for name in self.rng.sample(NAMES, self.rng.randint(0, 3))
            }
        return [
            None,
            self.rng.random() < 0.5,
            self.rng.randint(-(10**9), 10**9),
            round(self.rng.uniform(-5, 5), 3),
            self.rng.choice(TEXTS),
        ][kind]

    def array(self, depth: int) -> Any:
        schema: dict[str, Any] = {"type": "array"}
        low = self.rng.randint(0, 2)
        if self.rng.random() < 0.3:
            schema["prefixItems"] = [self.schema(depth - 1) for _ in range(self.rng.randint(1, 2))]
        if self.rng.random() < 0.7:
            schema["items"] = self.inner(depth - 1) if low else self.optional(depth - 1)
        elif "prefixItems" in schema:
            schema["items"] = False
            low = min(low, len(schema["prefixItems"]))
        if low:
            schema["minItems"] = low
        if self.rng.random() < 0.4:
            schema["maxItems"] = low + self.rng.randint(0, 3)
        return schema

    def object(self, depth: int) -> Any:
        names = self.rng.sample(NAMES, self.rng.randint(0, 4))
        required = [name for name in names if self.rng.random() < 0.5]
        properties = {
            name: self.inner(depth - 1) if name in required else self.optional(depth - 1)
            for name in names
        }
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required:
            schema["required"] = self.rng.sample(required, len(required))
        rest = self.rng.random()
        if rest < 0.5:
            schema["additionalProperties"] = False
        elif rest < 0.7:
            schema["additionalProperties"] = self.optional(depth - 1)
        elif rest < 0.8 and not {"x/y", "~t"} & set(names):
            schema |= {
                "patternProperties": {
                    "^x": self.optional(depth - 1),
                    "^[~0-9]+$": {"type": "integer"},
                },
                "additionalProperties": False,
            }
        elif len(required) == len(names):
            schema["additionalProperties"] = self.schema(depth - 1)
            schema["minProperties"] = len(required) + self.rng.randint(0, 1)
            schema["maxProperties"] = len(required) + self.rng.randint(1, 2)
        return schema

    def any_of(self, depth: int) -> Any:
        return {
            "anyOf": [
                self.schema(depth - 1),
                *(self.schema(depth - 1) for _ in range(self.rng.randint(1, 2))),
            ]
        }

    def one_of(self, depth: int) -> Any:
        return {
            "oneOf": self.rng.sample(
                [self.integer(depth), self.text(depth), self.array(depth), self.object(depth)], 2
            )
        }

    def all_of(self, depth: int) -> Any:
        first, second = (
            {"properties": {name: self.inner(depth - 1)}, "required": [name]}
            for name in self.rng.sample(string.ascii_letters, 2)
        )
        return {"type": "object", "allOf": [first, second]}


class Walker:
    """Writes JSON by a matcher alone: at first any token that is allowed, all equally likely, then
    those that come nearer to an end.
    """

    IN_TEXT = (rb"\"", rb"@", rb".")  # an @, since an address needs one
    BETWEEN = (rb"[\]}]", rb"[,:]", rb"[^\[{]", rb".")

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: frozenset[int]) -> None:
        self.tokenizer, self.ends = tokenizer, ends
        pieces = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)] + [b""] * (
            vocab_size - tokenizer.vocab_size
        )
        self.ranks = {}
        for in_text, order in ((True, self.IN_TEXT), (False, self.BETWEEN)):
            ranks = [
                next(
                    (
                        rank
                        for rank, first in enumerate(order, 1)
                        if re.match(first, piece, re.DOTALL)
                    ),
                    9,
                )
                for piece in pieces
            ]
            self.ranks[in_text] = np.array(ranks)
            self.ranks[in_text][list(ends)] = 0

    def walk(self, matcher: Matcher, rng: random.Random, free: int = 25, most: int = 600) -> str:
        """The text of at most `most` tokens, `free` of them any."""
        ids: list[int] = []
        while not matcher.finished:
            allowed = np.flatnonzero(matcher.allowed())
            if len(ids) >= free:
                quotes = re.sub(rb"\\.", b"", self.tokenizer.decode_bytes(ids)).count(b'"')
                ranks = self.ranks[quotes % 2 == 1][allowed]
                allowed = allowed[ranks == ranks.min()]
            token = int(rng.choice(allowed))
            assert matcher.accept(token)
            if token in self.ends:
                break
            ids.append(token)
            assert len(ids) <= most, f"no end in sight: {self.tokenizer.decode(ids)}"
        return self.tokenizer.decode_bytes(ids).decode("utf-8")
