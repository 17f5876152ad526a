"""Where texts are cut: published patterns, digits, and cutting long texts without changing their
tokens.
"""

import itertools
import unicodedata
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import (
    DIGITS_MODES,
    SPLIT_PATTERNS,
    Digits,
    build_pre_tokenizer,
    check_digits,
    cut_text,
    encode_utf8,
    recognise_digits,
)
from puna.tokenizer.tokenizer import Tokenizer


def words(digits: Digits, text: str) -> list[str]:
    """What the mode's pre-tokenizer cuts `text` into, as text."""
    return [
        text[start:end] for _, (start, end) in build_pre_tokenizer(digits).pre_tokenize_str(text)
    ]


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ("one", ["2", "0", "2", "4", " +", " ", "1", "2", "3", "4", "5"]),
        ("two", ["20", "24", " +", " ", "12", "34", "5"]),
        ("three", ["202", "4", " +", " ", "123", "45"]),
        ("off", ["2024", " +", " 12345"]),
    ],
)
def test_numbers_are_cut_as_documented(digits: Digits, expected: list[str]) -> None:
    assert words(digits, "2024 + 12345") == expected


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ("one", ["HE", "'LL", " say", ":", " ok", "\n\n", "   ", " go"]),
        ("two", ["HE", "'LL", " say", ":", " ok", "\n\n", "   ", " go"]),
        ("three", ["HE", "'LL", " say", ":", " ok", "\n\n", "   ", " go"]),
        ("off", ["HE", "'", "LL", " say", ":", " ok", "\n\n   ", " go"]),
    ],
)
def test_words_contractions_and_white_space_are_cut_as_the_models_do(
    digits: Digits, expected: list[str]
) -> None:
    """Qwen 2 and Llama 3 know contractions in capitals and keep line breaks apart from indentation;
    GPT-2 does not.
    """
    assert words(digits, "HE'LL say: ok\n\n    go") == expected


def test_the_patterns_differ_only_where_they_should() -> None:
    assert SPLIT_PATTERNS["two"] == SPLIT_PATTERNS["one"].replace(r"\p{N}|", r"\p{N}{1,2}|")
    assert SPLIT_PATTERNS["three"] == SPLIT_PATTERNS["one"].replace(r"\p{N}|", r"\p{N}{1,3}|")
    assert set(SPLIT_PATTERNS) == set(DIGITS_MODES)


@given(text=st.text(st.sampled_from("a1234 \n,.-½٣Ⅷ字"), max_size=40), limit=st.integers(2, 3))
def test_a_limit_joins_the_single_digits_of_a_run_from_its_left(text: str, limit: int) -> None:
    expected: list[str] = []
    for is_number, pieces in itertools.groupby(
        words("one", text), lambda piece: unicodedata.category(piece[0]).startswith("N")
    ):
        run = list(pieces)
        size = limit if is_number else 1
        expected += ["".join(run[start : start + size]) for start in range(0, len(run), size)]
    assert words("two" if limit == 2 else "three", text) == expected


@pytest.mark.parametrize("digits", DIGITS_MODES)
def test_a_saved_mode_is_recognised(
    tokenizers_by_digits: Mapping[Digits, Tokenizer], digits: Digits
) -> None:
    assert Tokenizer.from_json(tokenizers_by_digits[digits].to_json()).digits == digits


def test_recognises_gpt2s_own_file_and_admits_unknown_patterns() -> None:
    assert recognise_digits({"type": "ByteLevel", "add_prefix_space": False}) == "off"
    assert recognise_digits({"type": "ByteLevel", "use_regex": False}) is None
    assert (
        recognise_digits(
            {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}
        )
        is None
    )


@pytest.mark.parametrize("digits", DIGITS_MODES)
def test_no_learned_token_joins_digits_beyond_the_mode(
    tokenizers_by_digits: Mapping[Digits, Tokenizer], digits: Digits
) -> None:
    tokenizer = tokenizers_by_digits[digits]
    special = set(tokenizer.special_tokens.values())
    pieces = [
        tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size) if id_ not in special
    ]
    most = max(sum(48 <= byte <= 57 for byte in piece) for piece in pieces)
    # the training text is full of four-digit years
    assert most == {"one": 1, "two": 2, "three": 3, "off": 4}[digits]


@given(
    text=st.text(st.sampled_from("ab1 2\n\r\t,.'!_é\u0301\u3002\uff0c字🦙\u00a0\x1c"), max_size=60),
    size=st.integers(1, 8),
    digits=st.sampled_from(DIGITS_MODES),
)
def test_cutting_a_text_keeps_its_words(text: str, size: int, digits: Digits) -> None:
    pieces = list(cut_text(text, size))
    assert "".join(pieces) == text
    assert all(len(piece) >= size for piece in pieces[:-1])
    assert [word for piece in pieces for word in words(digits, piece)] == words(digits, text)


def test_cutting_really_cuts() -> None:
    assert list(cut_text("one two, three", 4)) == ["one two", ", three"]
    assert list(cut_text("no.place!to#cut", 20)) == ["no.place!to#cut"]


def test_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(TokenizerError, match=said("'four' ... one, two, three, off")):
        check_digits("four")


def test_lone_surrogates_are_rejected_with_their_position() -> None:
    with pytest.raises(TokenizerError, match=r"U\+D800 at character 2"):
        encode_utf8("ab\ud800")
