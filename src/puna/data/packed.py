"""Compressed files as streams of their bytes, by the ending of the name: .gz, .bz2, .xz, .zst.

Python's own readers of gzip, bzip2 and xz take several members in one file, and gzip's takes the
zeros that tapes and block devices leave at its end. Arrow reads Zstandard; a frame with a window of
more than 128 MiB (`zstd --long=28` and above), which Arrow rejects, is read by `zstandard`.

Cost: memory of the window, which a Zstandard frame states: at most 2 GiB, and 8 MiB at zstd's usual
levels.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from puna.data.reading import PACKED

PACKING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""Whatever these readers raise for a damaged file."""

_ARROW_WINDOW = 2**27
_LONGEST_WINDOW = 2**31


def packing(name: str) -> str | None:
    """The ending of the compression that a name has, or None."""
    return next((ending for ending in PACKED if name.lower().endswith(ending)), None)


@contextmanager
def unpacked(path: Path, name: str) -> Iterator[tuple[io.BufferedReader, BinaryIO]]:
    """The unpacked bytes of the file at `path`, and the stored file beneath them, whose `tell()` is
    the position. name: its ending chooses the compression.
    """
    with path.open("rb") as stored:
        stream: Any
        match packing(name):
            case None:
                yield stored, stored
                return
            case ".gz":
                stream = gzip.GzipFile(fileobj=stored)
            case ".bz2":
                stream = bz2.BZ2File(stored)
            case ".xz":
                stream = lzma.LZMAFile(stored)  # noqa: SIM115 - the reader below closes it
            case _:
                stream = _zstandard(stored)
        with io.BufferedReader(stream, 2**16) as reader:
            yield reader, stored


def _zstandard(stored: io.BufferedReader) -> Any:
    import zstandard  # only for the frame's header, and for what Arrow does not read

    try:
        window = zstandard.get_frame_parameters(stored.peek(18)).window_size
    except zstandard.ZstdError:
        window = 0  # Arrow says what is wrong
    return (
        _LongWindow(stored) if window > _ARROW_WINDOW else pa.CompressedInputStream(stored, "zstd")
    )


class _LongWindow(io.RawIOBase):
    """A Zstandard stream with a window of up to 2 GiB. `zstandard`'s own reader takes a truncated
    file for a whole one; this one raises EOFError.
    """

    def __init__(self, stored: BinaryIO) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
        self._frame: Any = None
        self._stored, self._left, self._error = stored, b"", zstandard.ZstdError
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            packed = self._left or self._stored.read(2**12)
            self._left = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("truncated Zstandard stream")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(packed))
            except self._error as error:
                raise OSError(str(error)) from error
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count
