"""Encoding and decoding: lossless, safe from injection, and equal to an independent reader of the
same file.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.special import LLAMA3_SPECIAL_TOKENS
from puna.tokenizer.tokenizer import Tokenizer

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
spelled_markers = st.lists(st.one_of(st.sampled_from(LLAMA3_SPECIAL_TOKENS), unicode_text)).map(
    "".join
)


@given(text=unicode_text, digits=st.sampled_from(DIGITS_MODES))
def test_lossless(
    tokenizers_by_digits: Mapping[Digits, Tokenizer], text: str, digits: Digits
) -> None:
    tokenizer = tokenizers_by_digits[digits]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode("utf-8")


@given(text=spelled_markers, digits=st.sampled_from(DIGITS_MODES))
def test_text_never_yields_a_special_token(
    tokenizers_by_digits: Mapping[Digits, Tokenizer], text: str, digits: Digits
) -> None:
    tokenizer = tokenizers_by_digits[digits]
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids, skip_special=True) == text
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


def test_a_year_is_four_tokens_or_two_or_one(
    tokenizers_by_digits: Mapping[Digits, Tokenizer],
) -> None:
    counts = {
        mode: len(tokenizer.encode("2024")) for mode, tokenizer in tokenizers_by_digits.items()
    }
    assert counts == {"one": 4, "two": 2, "three": 2, "off": 1}


def test_a_long_text_has_the_ids_of_its_whole(
    tokenizer: Tokenizer, stdlib_texts: list[str]
) -> None:
    """Long texts are encoded in pieces; the library, given the whole, must agree."""
    text = "\n".join(stdlib_texts)
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    whole = backend.encode(text, add_special_tokens=False).ids
    assert len(tokenizer.cut(text)) > 1
    assert tokenizer.encode(text) == whole
    assert tokenizer.encode_batch(["", text, "a"]) == [[], whole, tokenizer.encode("a")]


def test_a_space_in_front_of_a_text_stands_in_front_of_no_piece(tokenizer: Tokenizer) -> None:
    """It stood before each piece of a long text that began with a comma."""
    content = json.loads(tokenizer.to_json())
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    other = json.dumps({**content, "pre_tokenizer": {**spaced, "use_regex": True}})
    text = "river," * 60_000
    whole = tokenizers.Tokenizer.from_str(other).encode(text, add_special_tokens=False).ids
    assert Tokenizer(other).encode(text) == whole


def test_lone_surrogates_are_rejected(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"U\+DC80 at character 3"):
        tokenizer.encode("abc\udc80")
    with pytest.raises(TokenizerError, match=r"U\+DC80 at character 3"):
        tokenizer.encode_batch(["fine", "abc\udc80"])


def test_decoding_spells_special_tokens_or_leaves_them_out(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special_tokens["<|begin_of_text|>"], *tokenizer.encode("hi"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "<|begin_of_text|>hi<|end_of_text|>"
    assert tokenizer.decode(ids, skip_special=True) == "hi"


@pytest.mark.parametrize("unknown", [-1, 1000, 2**40])
def test_unknown_ids_are_rejected(tokenizer: Tokenizer, unknown: int) -> None:
    with pytest.raises(TokenizerError, match=said(f"id {unknown} ... vocabulary of 1000")):
        tokenizer.decode([0, unknown])
    with pytest.raises(TokenizerError, match=f"id {unknown}"):
        tokenizer.token_bytes(unknown)


def test_numpy_ids_decode(tokenizer: Tokenizer) -> None:
    assert (
        tokenizer.decode(np.array(tokenizer.encode("as they lie in a shard"), dtype=np.uint16))
        == "as they lie in a shard"
    )


@given(text=unicode_text)
def test_token_lengths_sum_to_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    lengths = tokenizer.token_lengths()
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode("utf-8"))


def test_roles(tokenizer: Tokenizer) -> None:
    names = tokenizer.special_tokens
    assert (tokenizer.bos_id, tokenizer.eos_id) == (
        names["<|begin_of_text|>"],
        names["<|end_of_text|>"],
    )
    assert (tokenizer.eot_id, tokenizer.pad_id) == (
        names["<|eot_id|>"],
        names["<|finetune_right_pad_id|>"],
    )
    assert tokenizer.token_lengths()[list(names.values())].tolist() == [0] * 8
    assert tokenizer.token_bytes(tokenizer.eos_id) == b""


def test_callers_cannot_change_the_vocabulary(tokenizer: Tokenizer) -> None:
    tokenizer.special_tokens.clear()
    assert len(tokenizer.special_tokens) == 8


def test_pickle_and_json_carry_everything(tokenizer: Tokenizer) -> None:
    text = "carried <|eot_id|> over"
    for copy in (pickle.loads(pickle.dumps(tokenizer)), Tokenizer.from_json(tokenizer.to_json())):
        assert copy.hash == tokenizer.hash
        assert copy.encode(text) == tokenizer.encode(text)
    assert tokenizer.hash[:12] in repr(tokenizer)


def test_a_process_pool_can_carry_it(tokenizer: Tokenizer) -> None:
    texts = ["first text", "second <|eot_id|>"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == tokenizer.encode_batch(texts)


def test_the_hash_is_of_the_content_not_of_the_layout(
    tokenizer: Tokenizer, edited: Callable[[Callable[[dict[str, Any]], None]], str]
) -> None:
    assert Tokenizer.from_json(edited(dict)).hash == tokenizer.hash
    assert (
        Tokenizer.from_json(edited(lambda content: content["model"]["merges"].pop())).hash
        != tokenizer.hash
    )


def test_settings_that_would_change_ids_in_silence_are_switched_off(
    tokenizer: Tokenizer, edited: Callable[[Callable[[dict[str, Any]], None]], str]
) -> None:
    """Files in the wild carry the truncation, padding and dropout of the program that saved
    them.
    """

    def change(content: dict[str, Any]) -> None:
        content["truncation"] = {
            "direction": "Right",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        content["padding"] = {
            "strategy": {"Fixed": 50},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        }
        content["model"]["dropout"] = 0.9

    text = "a text that is longer than three tokens"
    assert Tokenizer.from_json(edited(change)).encode(text) == tokenizer.encode(text)


def test_saving_again_is_byte_identical(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a")
    Tokenizer.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Tokenizer.load(tmp_path / "a" / "tokenizer.json").hash == tokenizer.hash
    assert json.loads((tmp_path / "a" / "tokenizer.json").read_text())["version"] == "1.0"
