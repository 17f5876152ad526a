"""File formats that hold text: plain files, JSON lines, Parquet and Arrow streams, read as a stream
of documents.

What it is not: it does not find files (`sources.py` does), and it neither cleans nor filters. A
file is chosen by its name: `.jsonl`, `.parquet` and `.arrow` hold one document a row, every other
file is plain text; `.gz` and `.zst` after the name are unpacked on the way.

Cost: memory of one row batch (256 rows) or one piece (1 Mi characters), whatever the file's size. A
plain file longer than a piece is read twice, because text that turns out not to be UTF-8 half-way
is to be skipped whole.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from puna.errors import DataError

PIECE_CHARACTERS = 2**20
"""A plain file longer than this becomes several documents, cut at a blank line where there is one,
else at a line end.
"""

_ROWS = 256
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_JSON_LINES = (".jsonl", ".ndjson")


class FileDocument(NamedTuple):
    """One document as its file holds it."""

    text: str | None
    """The text, or None where the file holds bytes that are not UTF-8."""

    position: int
    """Bytes of the file that were read so far, as stored (compressed), for progress; at most the
    file's size.
    """


def read_file(
    path: Path, text_field: str, piece_characters: int = PIECE_CHARACTERS
) -> Iterator[FileDocument]:
    """Stream the documents of one file, in the file's order.

    text_field: the key of a JSON line, or the column of a Parquet or Arrow file; plain files do not
    use it. piece_characters: the longest document that a plain file gives. Raises DataError, naming
    the file and the line or row, for damage, for a row without `text_field` and for a value that is
    not text.
    """
    name = path.name.lower()
    for suffix in _COMPRESSION:
        name = name.removesuffix(suffix)
    if name.endswith(_JSON_LINES):
        rows = _json_lines(path, text_field)
    elif name.endswith(".parquet"):
        rows = _parquet(path, text_field)
    elif name.endswith(".arrow"):
        rows = _arrow(path, text_field)
    else:
        rows = _plain(path, piece_characters)
    try:
        yield from rows
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}; replace the file or leave it out"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedReader, pa.NativeFile]]:
    """The file's unpacked bytes, and the stored file beneath them, whose `tell()` is the
    position.
    """
    with pa.OSFile(str(path)) as stored:
        compression = _COMPRESSION.get(path.suffix.lower())
        stream = stored if compression is None else pa.CompressedInputStream(stored, compression)
        with io.BufferedReader(stream, 2**16) as reader:
            yield reader, stored


def _plain(path: Path, piece_characters: int) -> Iterator[FileDocument]:
    with _opened(path) as (reader, stored):
        head = reader.read(piece_characters)
        if not reader.peek(1):
            size = stored.tell()
            try:
                yield FileDocument(None if _is_binary(head) else head.decode("utf-8-sig"), size)
            except UnicodeDecodeError:
                yield FileDocument(None, size)
            return
    if _is_binary(head) or not _is_utf8(path):
        yield FileDocument(None, path.stat().st_size)
        return
    with (
        _opened(path) as (reader, stored),
        io.TextIOWrapper(reader, "utf-8-sig", newline="") as text,
    ):
        piece = ""
        while block := text.read(piece_characters - len(piece)):
            piece += block
            if len(piece) == piece_characters:
                cut = _cut(piece)
                yield FileDocument(piece[:cut], stored.tell())
                piece = piece[cut:]
        yield FileDocument(piece, stored.tell())


def _is_binary(head: bytes) -> bool:
    return b"\0" in head[:8192]


def _is_utf8(path: Path) -> bool:
    with _opened(path) as (reader, _), io.TextIOWrapper(reader, "utf-8", newline="") as text:
        try:
            while text.read(PIECE_CHARACTERS):
                pass
        except UnicodeDecodeError:
            return False
    return True


def _cut(piece: str) -> int:
    """The index at which to end a piece: after the last blank line of its second half, else after
    the last line, else at its end.
    """
    half = len(piece) // 2
    for mark in ("\n\n", "\r\n\r\n", "\n"):
        at = piece.rfind(mark, half)
        if at >= 0:
            return at + len(mark)
    return len(piece)


def _json_lines(path: Path, text_field: str) -> Iterator[FileDocument]:
    with _opened(path) as (reader, stored):
        for number, line in enumerate(reader, start=1):
            if line.isspace():
                continue
            where = f"{path} line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where} is not valid JSON: {error}; mend the line or remove it"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{where} holds a {type(row).__name__}, but a line is an object with"
                    f" {text_field!r}"
                )
            if text_field not in row:
                raise DataError(
                    f"{where} has no field {text_field!r}, only {sorted(row)}; name the field with"
                    " --text-field"
                )
            yield FileDocument(_text(row[text_field], text_field, where), stored.tell())


def _parquet(path: Path, text_field: str) -> Iterator[FileDocument]:
    import pyarrow.parquet as pq  # a tenth of a second that other formats need not pay

    size = path.stat().st_size
    with pq.ParquetFile(path, pre_buffer=False) as file:
        _require_column(path, file.schema_arrow, text_field)
        total = max(1, file.metadata.num_rows)
        number = 0
        for batch in file.iter_batches(_ROWS, columns=[text_field]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield FileDocument(
                    _text(value, text_field, f"{path} row {number}"), size * number // total
                )


def _arrow(path: Path, text_field: str) -> Iterator[FileDocument]:
    with pa.memory_map(str(path)) as stored, pa.ipc.open_stream(stored) as stream:
        _require_column(path, stream.schema, text_field)
        number = 0
        for batch in stream:
            column = batch.column(text_field)
            for start in range(0, len(column), _ROWS):
                for value in column.slice(start, _ROWS).to_pylist():
                    number += 1
                    yield FileDocument(
                        _text(value, text_field, f"{path} row {number}"), stored.tell()
                    )


def _require_column(path: Path, schema: pa.Schema, text_field: str) -> None:
    if text_field not in schema.names:
        raise DataError(
            f"{path} has no column {text_field!r}, only {schema.names}; name the column with"
            " --text-field"
        )


def _text(value: Any, text_field: str, where: str) -> str | None:
    """A row's value as text: nothing is empty text; half of a surrogate pair, which no UTF-8 can
    hold, is not text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where} has a value of type {type(value).__name__} in {text_field!r}, but documents"
            " are text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value
