"""What the tests of constrained output share: two vocabularies, constraints in short, and texts
drawn from what is allowed.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from puna.inference.constrain import ConstraintCompiler, Matcher
from puna.inference.request import Constraint
from puna.tokenizer.tokenizer import Tokenizer

EXTRA = 40
"""Rows of the model's vocabulary that no token stands for."""

BYTES = Tokenizer.train(["ab"], 264)
"""Single bytes: a text has one spelling, so that a mask can be held against a language exactly."""

PIECES = Tokenizer.train(
    [
        json.dumps({"name": f"item {number}", "values": [number, None, True], "x": {"a": ""}})
        for number in range(50)
    ],
    300,
)
"""Some of its entries are pieces of JSON."""

BY_BYTES = ConstraintCompiler(BYTES, BYTES.vocab_size + EXTRA)
BY_PIECES = ConstraintCompiler(PIECES, PIECES.vocab_size + EXTRA)


def schema(value: Any) -> Constraint:
    return Constraint(kind="json_schema", text=json.dumps(value))


def regex(text: str) -> Constraint:
    return Constraint(kind="regex", text=text)


def grammar(text: str) -> Constraint:
    return Constraint(kind="grammar", text=text)


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether a constraint lets a whole text through, byte by byte, and lets it end there."""
    matcher = BY_BYTES.compile(constraint)
    return all(matcher.accept(id_) for id_ in BYTES.encode(text)) and bool(
        matcher.allowed()[BYTES.eos_id]
    )


def allowed_ids(matcher: Matcher) -> set[int]:
    return set(np.flatnonzero(matcher.allowed()).tolist())


def drawn(matcher: Matcher, rng: random.Random, most: int) -> Iterator[int]:
    """Tokens, each any of those allowed, accepted, until nothing but an end may come or one is
    drawn.
    """
    for _ in range(most):
        token = rng.choice(sorted(allowed_ids(matcher)))
        assert matcher.accept(token)
        yield token
        if matcher.finished:
            return
