"""A thousand schemas drawn at random: whatever tokens are drawn among those allowed, the text
parses, is valid and comes to an end.

`jsonschema` is the judge, with its checks of formats.
"""

import json
import random
from typing import Any

import pytest
from constraints import BY_PIECES, EXTRA, PIECES, schema
from jsonschema import Draft202012Validator as Validator
from jsonschema import ValidationError
from random_schemas import FORMATS, SchemaMaker, Walker

SCHEMAS, BLOCK = 1000, 100


WALKER = Walker(PIECES, PIECES.vocab_size + EXTRA, PIECES.end_ids)


def assert_valid(text: str, value: Any) -> None:
    try:
        Validator(value, format_checker=Validator.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise AssertionError(f"{text}\ndoes not keep to\n{json.dumps(value)}") from error


@pytest.mark.parametrize("first", range(0, SCHEMAS, BLOCK))
def test_whatever_is_drawn_keeps_to_the_schema_and_ends(first: int) -> None:
    for seed in range(first, first + BLOCK):
        rng = random.Random(seed)
        value = SchemaMaker(rng).make()
        text = WALKER.walk(BY_PIECES.compile(schema(value)), rng)
        assert_valid(text, value)
        assert len(text) < 2 or not text.isspace()


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_enforced(name: str) -> None:
    value = {"type": "string", "format": name}
    for seed in range(30):
        rng = random.Random(seed)
        assert_valid(WALKER.walk(BY_PIECES.compile(schema(value)), rng), value)
