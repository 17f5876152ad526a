"""Where the scored ids come from, and what the compressors make of their bytes."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from said import said

from puna.data.shards import open_split
from puna.errors import DataError
from puna.eval.held_out import held_out_tokens, text_tokens
from puna.eval.yardsticks import gzip_bits_per_byte, xz_bits_per_byte
from puna.inference.language_model import LanguageModel
from puna.tokenizer.tokenizer import Tokenizer


def test_held_out_ids_are_the_beginning_of_the_validation_split(
    tiny_recipe_file: Path, tiny_llama: LanguageModel
) -> None:
    folder = tiny_recipe_file.parent / "data"
    everything = held_out_tokens(folder, tiny_llama.tokenizer, 10**9)
    split = open_split(folder, "validation")
    assert len(everything) == split.num_tokens
    np.testing.assert_array_equal(
        held_out_tokens(folder, tiny_llama.tokenizer, 37), everything[:37]
    )
    assert everything[0] == tiny_llama.tokenizer.bos_id
    assert everything.dtype == np.int64


def test_another_tokenizer_is_refused(tiny_recipe_file: Path) -> None:
    other = Tokenizer.train(["something else entirely " * 20], 270)
    with pytest.raises(DataError, match=said("another tokenizer ... model")):
        held_out_tokens(tiny_recipe_file.parent / "data", other, 100)


def test_a_text_is_one_document(tmp_path: Path, tiny_llama: LanguageModel) -> None:
    path = tmp_path / "text"
    path.write_text("the llama 🦙\r\nreads\n", encoding="utf-8", newline="")
    tokenizer = tiny_llama.tokenizer
    ids = text_tokens(path, tokenizer)
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode_bytes(ids[1:].tolist()) == path.read_bytes(), (
        "bits per byte count the file's own bytes"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        (b"", "empty"),
        (b"fine \xff", "UTF-8 ... byte 5 ... convert"),
    ],
)
def test_a_text_that_cannot_be_scored(
    content: bytes | None, message: str, tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said(message)):
        text_tokens(path, tiny_llama.tokenizer)


def test_the_yardsticks_are_the_compressors() -> None:
    text = Path(__file__).read_bytes()
    assert len(gzip.decompress(gzip.compress(text, 9))) == len(text)
    assert gzip_bits_per_byte(text) == pytest.approx(8 * len(gzip.compress(text, 9)) / len(text))
    assert xz_bits_per_byte(text) == pytest.approx(
        8 * len(lzma.compress(text, preset=9)) / len(text)
    )
    noise = np.random.default_rng(0).bytes(20_000)
    assert gzip_bits_per_byte(noise) > 8
    assert xz_bits_per_byte(b"a" * 100_000) < 0.02
