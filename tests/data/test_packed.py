"""Compressed files: every ending, several members, zeros at the end, long windows, truncation."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
import zstandard
from read_back import read_back

TEXT = b"a text that is long enough to be cut off somewhere. " * 30


def long_window(text: bytes) -> bytes:
    """A frame as `zstd --long=28` writes it from a pipe: a window of 256 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(text) + packer.flush()


PACKED = {
    "gz": gzip.compress(TEXT),
    "bz2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zst": zstandard.compress(TEXT),
    "long.zst": long_window(TEXT),
}


def test_the_long_window_is_one() -> None:
    assert zstandard.get_frame_parameters(PACKED["long.zst"]).window_size == 2**28


@pytest.mark.parametrize("ending", PACKED)
def test_one_member_and_two(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.txt.{ending}").write_bytes(PACKED[ending])
    (tmp_path / f"b.{ending}").write_bytes(PACKED[ending] * 2)
    assert read_back(tmp_path) == ([TEXT.decode(), 2 * TEXT.decode()], [])


@pytest.mark.parametrize("ending", PACKED)
def test_what_breaks_off_is_damaged(ending: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / f"cut.{ending}").write_bytes(PACKED[ending][:-9])
    (tmp_path / f"plain.{ending}").write_bytes(TEXT)
    texts, report = read_back(tmp_path)
    assert texts == ["good"]
    assert len(report) == 1
    assert report[0].count("cannot be read") == 2


def test_zeros_after_gzip_are_padding(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(PACKED["gz"] + bytes(512))
    assert read_back(tmp_path) == ([TEXT.decode()], [])
