"""Formats of files that hold text, chosen by the name, as one stream of documents.

    .jsonl, .ndjson                    JSON lines, a document a row
    .json                              an array of objects or JSON lines, else plain text
    .csv, .tsv, .tab                   tables whose first row names the columns
    .parquet, .arrow, .feather, .ipc   tables
    .tar, .zip                         the files in them
    everything else                    plain text

`.gz`, `.bz2`, `.xz` and `.zst` after the name are unpacked on the way (Parquet and Arrow compress
inside and take none).

What it is not: it does not find files (`sources.py` does), and it neither cleans nor filters.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from puna.data.archives import ARCHIVE_ERRORS, archive_kind, archive_members
from puna.data.document import FileDocument
from puna.data.left_out import FileReport, LeftOut, printable
from puna.data.packed import PACKING_ERRORS, packing
from puna.data.plain_text import plain_documents
from puna.data.reading import Reading
from puna.data.tables import (
    DamagedFileError,
    FormatReader,
    arrow,
    json_kind,
    json_lines,
    parquet,
    separated_values,
)

_TABLES: Mapping[str, FormatReader] = MappingProxyType(
    {
        ".jsonl": json_lines,
        ".ndjson": json_lines,
        ".csv": separated_values,
        ".tsv": separated_values,
        ".tab": separated_values,
        ".parquet": parquet,
        ".arrow": arrow,
        ".feather": arrow,
        ".ipc": arrow,
    }
)

_DAMAGE = (*PACKING_ERRORS, *ARCHIVE_ERRORS, UnicodeError, csv.Error)


def read_file(path: Path, reading: Reading, left_out: LeftOut) -> Iterator[FileDocument]:
    """Stream the documents of one file, in the file's order; `left_out` counts and names what is
    left out of it. Of a damaged file come the documents that could be read, and its name is in the
    report.
    """
    report = FileReport(left_out, printable(path))
    if archive_kind(path.name) is None:
        yield from _documents(path, path.name, reading, report)
        return
    try:
        for member in archive_members(path, path.name, reading, report):
            inner = FileReport(left_out, f"{report.name} {printable(member.name)}")
            for document in _documents(member.path, member.name, reading, inner):
                yield document._replace(position=member.position)
    except _DAMAGE as error:
        report.add("damaged", f"cannot be read: {error}")


def _documents(
    path: Path, name: str, reading: Reading, report: FileReport
) -> Iterator[FileDocument]:
    """The documents of the file at `path`, whose format `name` says."""
    bare = name.lower().removesuffix(packing(name) or "")
    try:
        reader = _TABLES.get(Path(bare).suffix, plain_documents)
        if reader in (parquet, arrow) and packing(name) is not None:
            raise DamagedFileError(f"is a table inside {packing(name)}; unpack it first")
        if bare.endswith(".json"):
            reader = json_kind(path, name, reading) or plain_documents
        yield from reader(path, name, reading, report)
    except DamagedFileError as error:
        report.add("damaged", str(error))
    except _DAMAGE as error:
        report.add("damaged", f"cannot be read: {error}")
