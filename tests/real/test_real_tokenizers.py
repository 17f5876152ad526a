"""Published vocabularies: ids, text and streamed text equal to the reference implementation's."""

import base64
from functools import lru_cache
from pathlib import Path

import numpy as np
import packages
import pytest
import tiktoken
import transformers
from many_scripts import TEXTS
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import SPLIT_PATTERNS
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer

FOLDERS = {"llama2": packages.llama2_tokenizer, "llama31": packages.llama31_tokenizer}


@lru_cache
def pair(name: str) -> tuple[Tokenizer, transformers.PreTrainedTokenizerFast]:
    folder = FOLDERS[name]()
    return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_and_text_are_transformers(name: str) -> None:
    """AutoTokenizer builds LLaMA 2's anew with Metaspace, which gives other ids behind a special
    token and for a leading space; SentencePiece gives those of the file.
    """
    ours, theirs = pair(name)
    of_file = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDERS[name]() / "tokenizer.json")
    )
    for text in TEXTS:
        marked = of_file(text, add_special_tokens=False).input_ids
        ids = ours.encode(text)
        assert ours.encode_with_special(text) == marked
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode_document(text)[:1] == theirs(text).input_ids[:1]
        for some in (ids, marked):
            assert ours.decode(some) == theirs.decode(some, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_text_comes_back_whole_and_streamed(name: str) -> None:
    ours, _ = pair(name)
    for text in TEXTS:
        ids = ours.encode(text)
        stream = StreamDecoder(ours)
        assert "".join(map(stream.feed, ids)) + stream.flush() == ours.decode(ids) == text
        lengths = ours.byte_lengths(np.array(ids, dtype=np.int64))
        assert lengths.sum() == len(text.encode("utf-8"))


@pytest.mark.parametrize("name", FOLDERS)
def test_spelled_markers_are_text(name: str) -> None:
    ours, _ = pair(name)
    for text in (*ours.special_tokens, "a " + " ".join(ours.special_tokens)):
        ids = ours.encode(text)
        assert not set(ids) & set(ours.special_tokens.values())
        assert ours.decode(ids) == text


@pytest.mark.parametrize("name", FOLDERS)
def test_random_ids_decode_and_stream_as_in_transformers(name: str) -> None:
    ours, theirs = pair(name)
    rng = np.random.default_rng(0)
    for _ in range(300):
        # half of them low ids, which are bytes in both
        ids = rng.integers(0, rng.choice([300, ours.vocab_size]), size=20).tolist()
        stream = StreamDecoder(ours, skip_special=True)
        text = "".join(map(stream.feed, ids)) + stream.flush()
        assert text == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def test_roles_and_loss() -> None:
    llama2, llama31 = pair("llama2")[0], pair("llama31")[0]
    assert (llama2.bos_id, llama2.eos_id, llama2.end_ids) == (1, 2, {2})
    # this folder has no generation_config.json, and its configuration says <|eot_id|>
    assert (llama31.bos_id, llama31.end_ids) == (128000, {128009})
    with pytest.raises(TokenizerError, match=said("loses text ... give back the character U+2581")):
        raise TokenizerError(llama2.loss or "")
    assert llama31.loss is None


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    lines = packages.llama3_ranks().read_bytes().splitlines()
    return {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines}


def test_llama_3s_ranks_give_tiktokens_ids(ranks: dict[bytes, int]) -> None:
    ours = Tokenizer.load(packages.llama3_ranks())
    theirs = tiktoken.Encoding(
        "llama3",
        pat_str=SPLIT_PATTERNS["three"],
        mergeable_ranks=ranks,
        special_tokens=ours.special_tokens,
    )
    assert ours.vocab_size == theirs.n_vocab == 128256
    assert ours.special_tokens["<|eot_id|>"] == 128009
    assert ours.end_ids == {128001, 128008, 128009}
    for text in TEXTS:
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text) == ids == pair("llama31")[0].encode(text)
        assert ours.decode(ids) == text
    marked = "a<|eot_id|> b<|begin_of_text|>"
    assert ours.encode_with_special(marked) == theirs.encode(marked, allowed_special="all")


def test_smollm2_rejects_what_has_no_token(tmp_path: Path) -> None:
    """Loaded as transformers writes it from the GGUF file. It lacks six control characters and two
    bytes that begin characters of planes 4 to 11; transformers leaves them out.
    """
    gguf = packages.smollm2()
    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == loaded(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode_with_special(text) == loaded(text, add_special_tokens=False).input_ids
        assert ours.encode_document(text) == ids
        assert ours.decode(ids) == text
    for character in "\x04\x06\x13\x14\x16\x1d\U00040000\U000bffff":
        with pytest.raises(TokenizerError, match=said(f"U+{ord(character):04X} ... character 4")):
            ours.encode(f"caf\u00e9{character}")
        assert loaded.decode(loaded(f"a{character}").input_ids) != f"a{character}"
    with pytest.raises(
        TokenizerError, match=said("0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2")
    ):
        raise TokenizerError(ours.loss or "")
