"""tiktoken's files: ids equal to tiktoken's, Llama 3's special tokens by id."""

import base64
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from many_scripts import TEXTS
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import SPLIT_PATTERNS
from puna.tokenizer.tokenizer import Tokenizer


def ranks_of(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The ordinary tokens, which stand in the order of their ids as tiktoken's do."""
    special = set(tokenizer.special_tokens.values())
    ids = [id_ for id_ in range(tokenizer.vocab_size) if id_ not in special]
    return {tokenizer.token_bytes(id_): id_ for id_ in ids}


def written(ranks: dict[bytes, int]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())


@pytest.fixture(scope="module")
def ranks(stdlib_texts: list[str]) -> dict[bytes, int]:
    return ranks_of(Tokenizer.train(stdlib_texts, 1000, "three"))


@pytest.fixture(scope="module")
def ours(ranks: dict[bytes, int], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "tokenizer.model").write_bytes(written(ranks))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def theirs(ranks: dict[bytes, int]) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "ours", pat_str=SPLIT_PATTERNS["three"], mergeable_ranks=ranks, special_tokens={}
    )


def test_ids_are_tiktokens(ours: Tokenizer, theirs: tiktoken.Encoding) -> None:
    for text in TEXTS:
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_ids_of_anything_are_tiktokens(
    ours: Tokenizer, theirs: tiktoken.Encoding, text: str
) -> None:
    assert ours.encode(text) == theirs.encode_ordinary(text)


def test_special_tokens_are_llama_3s(ours: Tokenizer, ranks: dict[bytes, int]) -> None:
    """By their distance from the last rank, as in models/llama3/tokenizer.py of llama-models."""
    first = len(ranks)
    assert ours.vocab_size == first + 256
    by_name = {
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|reserved_special_token_0|>": 2,
        "<|finetune_right_pad_id|>": 4,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|eom_id|>": 8,
        "<|eot_id|>": 9,
        "<|python_tag|>": 10,
        "<|reserved_special_token_2|>": 12,
        "<|reserved_special_token_245|>": 255,
    }
    for name, place in by_name.items():
        assert ours.special_tokens[name] == first + place
    assert ours.encode_document("a")[0] == first
    assert ours.end_ids == {first + 1, first + 8, first + 9}
    assert ours.digits == "three"


def test_a_configuration_names_other_special_tokens(
    ranks: dict[bytes, int], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(written(ranks))
    first = len(ranks)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<go>", "eos_token": "<stop>", "add_bos_token": true,'
        f' "added_tokens_decoder": {{"{first}": {{"content": "<go>", "special": true}},'
        f' "{first + 1}": {{"content": "<stop>", "special": true}}}}}}'
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_tokens == {"<go>": first, "<stop>": first + 1}
    assert (tokenizer.bos_id, tokenizer.end_ids) == (first, {first + 1})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"IQ== 0 1\n", "line 3 ... 'IQ== 0 1' ... base64, a space and its rank"),
        (b"!!! 5\n", "line 3 ... base64, a space"),
        (b"A 5\n", "line 3 ... base64 is not whole"),
        (b"IQ== 1\n", "a token or a rank twice"),
        (b"enp6eg== 0\n", "a token or a rank twice"),
        (b"enp6eg== 999999999\n", "id 1000000000 ... 4,194,303"),
        (b"enp6eg== 99999999999999\n", "line 3"),
        (b"\x80\x04pickle\n", "line 3"),
    ],
)
def test_damaged_lines_are_named(line: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"IQ== 0\nIg== 1\n" + line)
    with pytest.raises(TokenizerError, match=said(reason)):
        Tokenizer.load(file)
