"""Patterns of `patternProperties` whose names are all declared: the one case of them that ends
midway, asked of llguidance beforehand.

The library takes the declared names out of what a pattern matches. Where that leaves none, it
still allows the comma before the next name, behind which no text goes on. A schema that asks the
library for nothing but such a name tells whether there is one.
"""

import json
from collections.abc import Collection, Sequence
from functools import cache

import llguidance
import numpy as np

# of all patterns of a schema together, in the library's units: some 15 ms
_INITIAL_FUEL, _STEP_FUEL = 300_000, 100_000


def first_without_names(patterns: Collection[str], declared: Collection[str]) -> str | None:
    """The first pattern that a property's name can match only by being one of those declared.

    Left out are patterns that the library cannot read, which it says where it reads the schema, and
    those whose share of the work, which all of them divide, does not suffice.
    """
    return next((each for each in patterns if _gives_no_name(each, declared, len(patterns))), None)


def _gives_no_name(pattern: str, declared: Collection[str], share: int) -> bool:
    schema = {
        "type": "object",
        "properties": dict.fromkeys(declared, False),
        "patternProperties": {pattern: True},
        "additionalProperties": False,
    }
    limits = llguidance.LLParserLimits(
        initial_lexer_fuel=_INITIAL_FUEL // share,
        step_lexer_fuel=_STEP_FUEL // share,
        verbose_errors=False,
    )
    grammar = json.dumps({"grammars": [{"json_schema": schema}]})
    matcher = llguidance.LLMatcher(_single_bytes(), grammar, log_level=0, limits=limits)
    if matcher.is_error() or not matcher.consume_token(ord("{")):
        return False
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    allowed = np.unpackbits(bits, bitorder="little")
    return not matcher.is_error() and not allowed[ord('"')]


class _SingleBytes:
    """A vocabulary of the bytes, whose ids are their values, and an end token."""

    def __init__(self) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [b""]
        self.eos_token_id = 256
        self.bos_token_id = None
        self.special_token_ids: list[int] = []

    def __call__(self, text: bytes) -> Sequence[int]:
        return list(text)


@cache
def _single_bytes() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_SingleBytes()))
