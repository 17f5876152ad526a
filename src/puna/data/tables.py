"""Tables of text, a document a row: JSON lines, JSON arrays, CSV, TSV, Parquet, Arrow and Feather.

A row that cannot be read is left out by its number, and the rows after it are read. Where the rest
of a file cannot be (a JSON array or a CSV file that breaks off), the reader raises, after the rows
before.

Cost: memory of one batch (256 rows) of a Parquet or Arrow file, else of one row. A row of more than
64 MiB is left out.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from puna.data.document import FileDocument
from puna.data.left_out import FileReport
from puna.data.packed import unpacked
from puna.data.reading import Reading
from puna.data.text_field import FieldError, row_text, top_columns

_ROWS = 256
_LONGEST_ROW = 2**26
_DELIMITERS = ",;\t|"

FormatReader = Callable[[Path, str, Reading, FileReport], Iterator[FileDocument]]
"""A reader of one format: it yields the documents of the file at a path, whose name tells the
compression, and reports what it leaves out.
"""


class DamagedFileError(Exception):
    """A file whose rest cannot be read; the message says why."""


def _documents(
    row: Any, reading: Reading, report: FileReport, where: str, position: int
) -> Iterator[FileDocument]:
    """The document of one row, or none and a line in the report. where: its line or number."""
    if not isinstance(row, Mapping):
        kind = type(row).__name__
        report.add("damaged", f"{where} holds a {kind}, but a row is an object with fields")
        return
    try:
        text = row_text(row, reading.text_field)
    except FieldError as problem:
        report.add("damaged", f"{where} has {problem}")
    except UnicodeError:
        report.add("not_utf8", where)
    else:
        yield FileDocument(reading.normalized(text), position)


def json_lines(
    path: Path, name: str, reading: Reading, report: FileReport
) -> Iterator[FileDocument]:
    """The rows of a file with a JSON object in each line."""
    with unpacked(path, name) as (reader, stored):
        number = 0
        while line := reader.readline(_LONGEST_ROW):
            number += 1
            where = f"line {number}"
            long = len(line) == _LONGEST_ROW and not line.endswith(b"\n")
            while long and (rest := reader.readline(_LONGEST_ROW)):
                long = not rest.endswith(b"\n")
                line = b""
            if not line:
                report.add("damaged", f"{where} is longer than {_LONGEST_ROW:,} bytes")
            elif not line.isspace():
                try:
                    row = json.loads(line.decode("utf-8-sig"))
                except UnicodeDecodeError:
                    report.add("not_utf8", where)
                except (ValueError, RecursionError) as error:
                    report.add("damaged", f"{where} is not valid JSON: {error}")
                else:
                    yield from _documents(row, reading, report, where, stored.tell())


def json_kind(path: Path, name: str, reading: Reading) -> FormatReader | None:
    """The reader of a file named .json, by its beginning: `json_array` for an array of objects,
    `json_lines` for an object in each line (of a single one only where it has the text field), None
    for any other JSON, which is plain text.
    """
    with unpacked(path, name) as (reader, _):
        head = reader.read(2**20).decode("utf-8-sig", errors="replace").lstrip()
    if head.startswith("["):
        return json_array if head[1:].lstrip().startswith("{") else None
    first, _, rest = head.partition("\n")
    row = _object(first)
    if row is None:
        return None
    in_lines = rest.lstrip().startswith("{") or reading.text_field.split(".")[0] in row
    return json_lines if in_lines else None


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def json_array(
    path: Path, name: str, reading: Reading, report: FileReport
) -> Iterator[FileDocument]:
    """The objects of a JSON array, one at a time."""
    decoder = json.JSONDecoder()
    with unpacked(path, name) as (reader, stored):
        text = io.TextIOWrapper(reader, "utf-8-sig", errors="surrogateescape")
        buffer = text.read(2**16).lstrip()[1:]  # without [
        number = 0
        while True:
            buffer = _skipped(buffer, "," if number else "", text)
            if buffer.startswith("]"):
                return
            number += 1
            step = 2**16
            while True:
                try:
                    row, end = decoder.raw_decode(buffer)
                    break
                except (ValueError, RecursionError) as error:
                    # an object that goes on behind the buffer, or one that is wrong
                    more = text.read(step)
                    if not more or len(buffer) > _LONGEST_ROW:
                        raise DamagedFileError(
                            f"row {number} is not valid JSON: {error}"
                        ) from error
                    buffer, step = buffer + more, step * 2
            buffer = buffer[end:]
            yield from _documents(row, reading, report, f"row {number}", stored.tell())


def _skipped(buffer: str, mark: str, text: io.TextIOWrapper) -> str:
    """The buffer after white space and `mark`, with something behind them if the file has it."""
    for wanted in (mark, ""):
        buffer = buffer.lstrip()
        while not buffer:
            more = text.read(2**16)
            if not more:
                raise DamagedFileError("is an array without an end")
            buffer = more.lstrip()
        if wanted and buffer.startswith(wanted):
            buffer = buffer[1:]
    return buffer


def separated_values(
    path: Path, name: str, reading: Reading, report: FileReport
) -> Iterator[FileDocument]:
    """The rows of a CSV or TSV file, whose first row names the columns. They are separated by what
    that row has most of: a comma, a semicolon (as spreadsheets write in half of Europe), a tab or a
    bar.
    """
    # Python's own limit of 131,072 characters a field is shorter than a text; it is one number for
    # the process
    csv.field_size_limit(_LONGEST_ROW)
    with unpacked(path, name) as (reader, stored):
        text = io.TextIOWrapper(reader, "utf-8-sig", errors="surrogateescape", newline="")
        first = text.readline(_LONGEST_ROW)
        if not first:
            report.add("empty")
            return
        delimiter = max(_DELIMITERS, key=first.count)
        rows = csv.DictReader(itertools.chain((first,), text), delimiter=delimiter)
        _require_columns(list(rows.fieldnames or ()), reading)
        for number, row in enumerate(rows, start=2):
            yield from _documents(row, reading, report, f"row {number}", stored.tell())


def parquet(path: Path, _name: str, reading: Reading, report: FileReport) -> Iterator[FileDocument]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq  # a tenth of a second that other formats need not pay

    size = path.stat().st_size
    with (
        pa.OSFile(os.fsencode(path)) as stored,
        pq.ParquetFile(stored, pre_buffer=False) as file,
    ):
        columns = _require_columns(file.schema_arrow.names, reading)
        total = max(1, file.metadata.num_rows)
        number = 0
        for batch in file.iter_batches(_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield from _documents(row, reading, report, f"row {number}", size * number // total)


def arrow(path: Path, _name: str, reading: Reading, report: FileReport) -> Iterator[FileDocument]:
    """The rows of an Arrow file: a stream, as `datasets` writes it, or a file, as Feather is."""
    with pa.memory_map(os.fsencode(path)) as stored:
        head = stored.read(6)
        stored.seek(0)
        if head.startswith(b"FEA1"):
            raise DamagedFileError(
                "is the first version of Feather, which has no batches; write the table again, for"
                " example with pyarrow.feather.write_feather"
            )
        yield from _arrow_rows(stored, reading, report, stream=head != b"ARROW1")


def _arrow_rows(
    stored: pa.NativeFile, reading: Reading, report: FileReport, *, stream: bool
) -> Iterator[FileDocument]:
    size, number = stored.size(), 0
    with (pa.ipc.open_stream if stream else pa.ipc.open_file)(stored) as table:
        columns = _require_columns(table.schema.names, reading)
        count = 0 if stream else table.num_record_batches
        batches = table if stream else map(table.get_batch, range(count))
        for done, batch in enumerate(batches, start=1):
            position = stored.tell() if stream else size * done // count
            kept = batch.select(columns)
            for start in range(0, kept.num_rows, _ROWS):
                for row in kept.slice(start, _ROWS).to_pylist():
                    number += 1
                    yield from _documents(row, reading, report, f"row {number}", position)


def _require_columns(names: list[str], reading: Reading) -> list[str]:
    try:
        return top_columns(names, reading.text_field)
    except FieldError as problem:
        raise DamagedFileError(f"has {problem}") from problem
