"""Definitions and configurations with any value in any place: read, or one clear error."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained_kinds import byte_level, llama2, unigram, wordpiece

from puna.errors import TokenizerError
from puna.tokenizer.tokenizer import Tokenizer

KINDS = ("llama2", "unigram", "byte_level", "wordpiece")
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**64),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["▁", "<s>", "a", "(", "[", "Replace", "Strip", "ByteLevel", "Sequence"]),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just({"a": [1]}),
)


@pytest.fixture(scope="module")
def contents() -> Mapping[str, dict[str, Any]]:
    made = {"llama2": llama2, "unigram": unigram, "byte_level": byte_level, "wordpiece": wordpiece}
    return {kind: json.loads(train().to_str()) for kind, train in made.items()}


def places(value: Any, depth: int = 5) -> Iterator[tuple[Any, Any]]:
    """Containers with their keys; of long ones the first few."""
    keys = list(value)[:4] if isinstance(value, dict) else range(min(len(value), 4))
    for key in keys:
        yield value, key
        if depth and isinstance(value[key], dict | list):
            yield from places(value[key], depth - 1)


@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_any_value_anywhere_in_a_definition(
    contents: Mapping[str, dict[str, Any]], kind: str, data: st.DataObject
) -> None:
    content = json.loads(json.dumps(contents[kind]))
    # all keys of the first level, so that every part is met
    found = [(content, key) for key in content]
    for part in content.values():
        found += places(part) if isinstance(part, dict | list) else []
    holder, key = found[data.draw(st.integers(0, 10**6)) % len(found)]
    holder[key] = data.draw(junk)
    with contextlib.suppress(TokenizerError):
        tokenizer = Tokenizer(json.dumps(content), {"eos_token": "</s>"})
        tokenizer.decode(tokenizer.encode_document("they carry <s>\x00 é"))
        _ = tokenizer.loss, tokenizer.end_ids, tokenizer.token_lengths()


@given(
    config=st.dictionaries(
        st.sampled_from(
            [
                "eos_token",
                "bos_token",
                "add_bos_token",
                "added_tokens_decoder",
                "additional_special_tokens",
                "extra_special_tokens",
                "end_ids",
            ]
        ),
        st.one_of(junk, st.lists(junk, max_size=2), st.dictionaries(st.text(max_size=3), junk)),
        max_size=3,
    )
)
def test_any_configuration(contents: Mapping[str, dict[str, Any]], config: dict[str, Any]) -> None:
    with contextlib.suppress(TokenizerError):
        Tokenizer(json.dumps(contents["llama2"]), config).encode_document("they carry")
