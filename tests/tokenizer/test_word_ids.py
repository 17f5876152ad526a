"""Ids through remembered words are the ids of the library, for every text and vocabulary."""

import json
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import TokenizerError
from puna.tokenizer import word_ids
from puna.tokenizer.pretokenize import Digits
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.word_ids import DocumentEncoder

SAMPLE = [
    "The river rose, it's 2024!\n\n  Nobody'd seen 12345 boats...",
    "東京は🦙 naïve café\r\n",
] * 9
U16 = np.dtype("<u2")
PARTS = st.sampled_from(
    [
        *("it's", "'RE", " \u017f", "'\u017f", "2024", "\u0663\u0664", " ", "\n", "\r\n"),
        *("!!", "river", "\u2177", "<|end_of_text|>", "e\u0301", "\u1c89", "!\u1c89a", "\x1c\x85"),
    ]
)
TEXTS = st.lists(PARTS | st.text(st.characters(exclude_categories=["Cs"]))).map("".join)


@pytest.fixture(scope="module", params=get_args(Digits))
def vocabulary(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(SAMPLE, 320, request.param)


def expected(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer.encode_documents(texts, end=True)


def encoded(encoder: DocumentEncoder, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in encoder.encode(texts)]


@given(st.lists(TEXTS, max_size=3))
def test_ids_are_those_of_the_library(vocabulary: Tokenizer, texts: list[str]) -> None:
    encoder = DocumentEncoder(vocabulary, U16)
    assert encoded(encoder, texts) == expected(vocabulary, texts)
    assert encoded(encoder, texts) == expected(vocabulary, texts)  # now remembered


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    return Tokenizer(json.dumps({**json.loads(tokenizer.to_json()), **parts}))


def test_every_character_is_cut_as_the_library_does(vocabulary: Tokenizer) -> None:
    """Between two signs, where a letter, a number and a sign go three ways."""
    encoder = DocumentEncoder(vocabulary, U16)
    for start in range(0x80, 0x3400, 64):
        text = "".join(f"!!{chr(point)}a{chr(point)}1" for point in range(start, start + 64))
        assert encoded(encoder, [text]) == expected(vocabulary, [text])


def test_a_character_that_one_library_does_not_know(vocabulary: Tokenizer) -> None:
    """U+208F is a letter of Unicode 17, and none in Oniguruma's tables; were both up to date, the
    ids would be equal all the same.
    """
    encoder = DocumentEncoder(vocabulary, U16)
    texts = ["plain", "a !!\u208fb", "plain", "!!\u208fb"]
    assert encoded(encoder, texts) == expected(vocabulary, texts)


def test_words_are_forgotten_and_met_again(
    vocabulary: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_ids, "REMEMBERED", 3)
    encoder = DocumentEncoder(vocabulary, U16)
    texts = ["one two three four", "one five", "six seven eight nine one", "x" * 200 + " two"] * 2
    assert encoded(encoder, texts) == expected(vocabulary, texts)
    assert encoder.remembered <= 6


def test_vocabularies_whose_texts_are_not_made_of_words(vocabulary: Tokenizer) -> None:
    unlike = [
        changed(vocabulary, normalizer={"type": "Lowercase"}),
        changed(
            vocabulary,
            pre_tokenizer={
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
        ),
    ]
    texts = ["The River", "", " x"]
    for tokenizer in unlike:
        assert tokenizer.word_rule is None
        encoder = DocumentEncoder(tokenizer, U16)
        assert encoded(encoder, texts) == expected(tokenizer, texts)
        assert encoder.remembered == 0
    assert vocabulary.word_rule is not None


def test_a_long_text_and_wide_ids(vocabulary: Tokenizer) -> None:
    text = "The river rose in the night, it's 2024. " * 20_000
    encoder = DocumentEncoder(vocabulary, np.dtype("<u4"))
    (ids,) = encoder.encode([text])
    assert ids.dtype == np.dtype("<u4")
    assert [ids.tolist()] == expected(vocabulary, [text])


def test_a_lone_surrogate_is_named(vocabulary: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800"):
        DocumentEncoder(vocabulary, U16).encode(["a\ud800"])
