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


def gives_no_name(pattern: str, declared: Collection[str]) -> bool:
    """True if a property's name can match the pattern only by being one of those declared. False
    for a pattern that the library cannot read, which it says where it reads the schema.
    """
    schema = {
        "type": "object",
        "properties": dict.fromkeys(declared, False),
        "patternProperties": {pattern: True},
        "additionalProperties": False,
    }
    matcher = llguidance.LLMatcher(
        _single_bytes(), json.dumps({"grammars": [{"json_schema": schema}]}), log_level=0
    )
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
