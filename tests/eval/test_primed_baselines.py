"""Primed compressors against their definition, their programs' decoders and texts of known cost."""

import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyppmd
import pytest
import zstandard
from said import said

from puna.errors import DataError
from puna.eval import primed_baselines
from puna.eval.ngram import ngram_bits_per_byte
from puna.eval.primed_baselines import (
    measure_primed_baselines,
    primed_ppm_bytes,
    primed_xz_bytes,
    primed_zstd_bytes,
)
from puna.eval.training_text import TrainingText
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe

PRIMED = [primed_xz_bytes, primed_zstd_bytes, primed_ppm_bytes]
Sizes = Callable[[bytes, bytes], int]


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def words(size: int, seed: int) -> bytes:
    """Text of 500 made-up words, which two seeds share."""
    vocabulary = ["".join(chr(97 + letter % 26) for letter in noise(6, n)) for n in range(500)]
    chosen = np.random.default_rng(seed).zipf(1.3, size) % len(vocabulary)
    return " ".join(vocabulary[number] for number in chosen).encode()


def lzma_bytes(text: bytes, filter_id: int) -> int:
    """What xz -9e makes of a text, without the container's header and index."""
    settings = {"id": filter_id, "preset": 9 | lzma.PRESET_EXTREME}
    return len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=[settings]))


@pytest.mark.parametrize("size", PRIMED)
def test_a_text_that_was_read_before_costs_nearly_nothing(size: Sizes) -> None:
    training = words(20_000, 0)
    text = training[30_000:60_000]
    assert size(training, text) < len(text) / 20
    assert size(b"", text) > len(text) / 6


@pytest.mark.parametrize("size", PRIMED)
def test_noise_costs_eight_bits_a_byte_whatever_was_read(size: Sizes) -> None:
    text = noise(20_000)
    assert size(noise(30_000, 1), text) == pytest.approx(len(text), rel=0.03)


@pytest.mark.parametrize("size", PRIMED)
def test_reading_the_same_language_pays_and_another_does_not(size: Sizes) -> None:
    text = words(2_000, 1)
    unread = size(b"", text)
    assert size(words(20_000, 0), text) < 0.95 * unread
    assert size(noise(20_000), text) > 0.95 * unread


@pytest.mark.parametrize("size", PRIMED)
@pytest.mark.parametrize("training", [b"", b"a", b"abc"])
def test_short_texts(size: Sizes, training: bytes) -> None:
    assert 0 < size(training, b"a") < 30
    assert 0 < size(training, "llama 🦙".encode()) < 40


@pytest.mark.parametrize(
    ("training", "filter_id"),
    [
        (words(10, 0), lzma.FILTER_LZMA2),
        (words(100_000, 0), lzma.FILTER_LZMA2),
        (b"a" * 100_000, lzma.FILTER_LZMA2),
        (noise(600_000), lzma.FILTER_LZMA1),  # which LZMA2 stores, in a chunk of its own
    ],
    ids=["ten words", "words", "one letter", "noise"],
)
def test_xz_adds_the_difference_of_two_sizes(training: bytes, filter_id: int) -> None:
    """The definition, by compressing both texts and the first: two passes in place of one."""
    text = words(3_000, 1)
    difference = lzma_bytes(training + text, filter_id) - lzma_bytes(training, filter_id)
    assert primed_xz_bytes(training, text) == pytest.approx(difference, abs=16)


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs xz")
def test_xz_alone_is_the_command_lines(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(words(5_000, 1))
    run = ["xz", "-9e", "--format=raw", "--lzma2=preset=9e", "--stdout", str(tmp_path / "text")]
    size = len(subprocess.run(run, capture_output=True, check=True).stdout)
    assert primed_xz_bytes(b"", words(5_000, 1)) == pytest.approx(size, abs=64)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")
def test_zstd_is_the_command_lines_patch(tmp_path: Path) -> None:
    """`zstd --patch-from` has the training text as a prefix, which is raw content too."""
    training, text = words(20_000, 0), words(5_000, 1)
    (tmp_path / "training").write_bytes(training)
    (tmp_path / "text").write_bytes(text)
    run = ["zstd", "--ultra", "-22", "--no-check", "--stdout", "--patch-from"]
    run += [str(tmp_path / "training"), str(tmp_path / "text")]
    size = len(subprocess.run(run, capture_output=True, check=True).stdout)
    assert primed_zstd_bytes(training, text) == pytest.approx(size, rel=0.02)


def test_the_text_comes_back_from_what_zstd_and_ppmd_count() -> None:
    """The counted bytes and the training text are all that a decoder needs."""
    training, text = words(20_000, 0), words(3_000, 1)
    dictionary = zstandard.ZstdCompressionDict(training, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packed = zstandard.ZstdCompressor(
        dict_data=dictionary,
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            22, source_size=len(text), dict_size=len(training), hash_log=22
        ),
    ).compress(text)
    assert primed_zstd_bytes(training, text) == len(packed)
    assert zstandard.ZstdDecompressor(dict_data=dictionary).decompress(packed) == text

    encoder = pyppmd.Ppmd8Encoder(16, 2**29, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    front = encoder.encode(training)
    back = encoder.encode(text) + encoder.flush(endmark=False)
    assert primed_ppm_bytes(training, text) == len(back)
    decoder = pyppmd.Ppmd8Decoder(16, 2**29, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    assert decoder.decode(front + back, len(training) + len(text)) == training + text


def test_all_baselines_are_of_one_text(tiny_recipe: Callable[..., Recipe]) -> None:
    tokenizer = Tokenizer.load(tiny_recipe().tokenizer.path)
    content, text = words(3_000, 0), words(500, 1)
    ids = np.array(tokenizer.encode(content.decode()), dtype=np.int64)
    targets = np.array(tokenizer.encode(text.decode()), dtype=np.int64)
    training = TrainingText(ids, content, 5 * len(content))
    found = measure_primed_baselines(training, np.append(ids[0], targets), tokenizer)
    assert found.bits_per_byte == {
        "xz -9e": 8 * primed_xz_bytes(content, text) / len(text),
        "zstd -22": 8 * primed_zstd_bytes(content, text) / len(text),
        "PPMd": 8 * primed_ppm_bytes(content, text) / len(text),
        "5-gram": ngram_bits_per_byte(
            ids, np.append(ids[0], targets), tokenizer.token_lengths(), 5
        ),
    }
    assert (found.read_bytes, found.all_bytes) == (len(content), 5 * len(content))
    assert found.scored_bytes == len(text)


@pytest.mark.parametrize(
    ("content", "text", "words_said"),
    [
        (b"", "a", "the training text has 0 bytes ... 1 or more"),
        (b"a", "", "the text has 0 bytes ... 1 or more"),
    ],
)
def test_an_empty_text_is_said(
    content: bytes, text: str, words_said: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    tokenizer = Tokenizer.load(tiny_recipe().tokenizer.path)
    ids = np.array([0, *tokenizer.encode(text)], dtype=np.int64)
    with pytest.raises(DataError, match=said(words_said)):
        measure_primed_baselines(TrainingText(ids, content, len(content)), ids, tokenizer)


def test_ppmd_goes_on_where_its_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """It prunes what it knows, so that it does worse than with all of it and better than with
    none.
    """
    training, text = words(50_000, 0), words(2_000, 1)
    whole = primed_ppm_bytes(training, text)
    monkeypatch.setattr(primed_baselines, "_PPM_MEMORY", 2**17)
    pruned = primed_ppm_bytes(training, text)
    assert whole < pruned < primed_ppm_bytes(b"", text)
