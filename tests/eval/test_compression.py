"""The compression baselines are the compressors' own bits per byte."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from puna.eval.compression import gzip_bits_per_byte, xz_bits_per_byte


def test_the_baselines_are_the_compressors() -> None:
    text = Path(__file__).read_bytes()
    assert len(gzip.decompress(gzip.compress(text, 9))) == len(text)
    assert gzip_bits_per_byte(text) == pytest.approx(8 * len(gzip.compress(text, 9)) / len(text))
    assert xz_bits_per_byte(text) == pytest.approx(
        8 * len(lzma.compress(text, preset=9)) / len(text)
    )
    noise = np.random.default_rng(0).bytes(20_000)
    assert gzip_bits_per_byte(noise) > 8
    assert xz_bits_per_byte(b"a" * 100_000) < 0.02
