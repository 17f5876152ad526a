"""Sources of text that a user may name, and the stream of their documents in an order that depends
on names alone.

A source is one string:

    FOLDER          every file below it, in the order of names, without hidden files, `__pycache__`
        and binary files
    GLOB            'books/**/*.txt' (quoted, so that the shell leaves it alone)
    FILE            plain text, .jsonl, .parquet or .arrow; plain text and .jsonl also as .gz and
        .zst
    DATASET FOLDER  what the `datasets` library writes with `save_to_disk`; of a folder with splits,
        the split `train`
    python-stdlib   the source of the Python standard library where it is installed: text for a
        first run, offline
    site-packages   that of the packages installed beside Puna, or of one: site-packages:torch (see
        `site_packages.py`)
    additions       sums, generated; additions:4 and additions:4:reversed in other forms (see
        `additions.py`)
    recall          lines that ask for a value planted earlier in them, generated (see `recall.py`)

What it is not: nothing is downloaded, cleaned or de-duplicated here. Cost: one `stat` and about 400
bytes of memory a file; the text itself streams (see `file_formats.py`).
"""

import glob
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from puna.data import additions, recall
from puna.data.file_formats import PIECE_CHARACTERS, FileDocument, read_file
from puna.data.site_packages import is_site_packages, site_packages_files
from puna.errors import DataError

PYTHON_STDLIB = "python-stdlib"

_STDLIB_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload"}
)
"""Folders left out of the standard library: test suites (60% of its bytes, much of it tables) and
other packages.
"""


class Document(NamedTuple):
    """One text of a corpus."""

    text: str
    """Never empty; encodes to UTF-8."""

    path: Path
    """The file that holds it."""

    position: int
    """Bytes of all the sources, as stored, that were read so far, for progress; it ends at the sum
    of their sizes.
    """


class SourceFile(NamedTuple):
    """One file of a source, and what shows that it was altered since."""

    path: Path
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Source:
    """The files that one source string stands for, in reading order."""

    name: str
    """As the user wrote it."""

    root: Path
    """The folder that the fingerprint's file names are relative to: a moved corpus keeps it."""

    files: tuple[SourceFile, ...]

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return sum(file.size for file in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of the files' relative names, sizes and modification times; the text itself
        is not read.
        """
        digest = xxhash.xxh3_128()
        for file in self.files:
            name = os.path.relpath(file.path, self.root)
            digest.update(f"{name}\0{file.size}\0{file.modified_ns}\n".encode())
        return digest.hexdigest()


@dataclass
class Skipped:
    """Documents that were read past; `read_documents` adds to it."""

    not_utf8: int = field(default=0)
    empty: int = field(default=0)


def find_sources(sources: Sequence[str]) -> list[Source]:
    """Find the files of every source, before any text is read.

    Raises DataError for no sources at all, for a source that does not exist and for one that holds
    no file.
    """
    if not sources:
        raise DataError("no source was given; name a folder, a file, a glob or python-stdlib")
    return [_find(source) for source in sources]


def read_documents(
    sources: Iterable[Source],
    *,
    text_field: str = "text",
    piece_characters: int = PIECE_CHARACTERS,
    skipped: Skipped | None = None,
) -> Iterator[Document]:
    """Stream the documents of the sources, one source after the other, each in the order of its
    files.

    text_field: the key or column that holds the text in .jsonl, .parquet and .arrow files.
    piece_characters: longer plain files become several documents, cut at blank lines. skipped:
    counts, while the stream is consumed, the documents that are not UTF-8 or hold nothing but white
    space. Raises DataError where a file is damaged, and at the end of a source in which there was
    no text at all. The usual mistake: to read the counts before the stream is exhausted.
    """
    skipped = Skipped() if skipped is None else skipped
    base = 0  # stored bytes of the files before this one
    for source in sources:
        found = False
        for file in source.files:
            for text, position in _rows(source, file, text_field, piece_characters):
                if text is None:
                    skipped.not_utf8 += 1
                elif not text or text.isspace():
                    skipped.empty += 1
                else:
                    found = True
                    yield Document(text, file.path, base + position)
            base += file.size
        if not found:
            raise DataError(
                f"the source {source.name} holds no UTF-8 text in its {len(source.files)} files;"
                " convert its files to UTF-8 or leave it out"
            )


def _rows(
    source: Source, file: SourceFile, text_field: str, piece_characters: int
) -> Iterator[FileDocument]:
    if (generated := _generated(source.name)) is not None:
        return (FileDocument(text, file.size) for text in generated[1])
    return read_file(file.path, text_field, piece_characters)


def read_texts(
    sources: Sequence[str], *, text_field: str = "text", max_bytes: int | None = None
) -> Iterator[str]:
    """Stream only the texts of the sources, such as a tokenizer's training wants them.

    max_bytes: stop with the document that brings the UTF-8 text to this many bytes.
    Raises DataError as `find_sources` (before the first text) and `read_documents` do.
    """
    found = find_sources(sources)
    return _texts(found, text_field, max_bytes)


def _texts(sources: list[Source], text_field: str, max_bytes: int | None) -> Iterator[str]:
    taken = 0
    for document in read_documents(sources, text_field=text_field):
        yield document.text
        taken += len(document.text.encode())
        if max_bytes is not None and taken >= max_bytes:
            return


def _find(source: str) -> Source:
    if (generated := _generated(source)) is not None:
        generator = _stat(generated[0])  # another generator, other texts
        return Source(source, generator.path.parent, (generator,))
    if source == PYTHON_STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        paths = list(_stdlib(root))
    elif is_site_packages(source):
        root, paths = site_packages_files(source)
    elif (path := Path(source).expanduser()).is_dir():
        root, paths = path, list(_walk(path))
    elif path.exists():
        root, paths = path.parent, [path]
    else:
        paths = _glob(source)
        root = Path(os.path.commonpath([path.parent for path in paths]))
    if not paths:
        raise DataError(f"the source {source} holds no files; put text into it or name another")
    return Source(source, root, tuple(_stat(path) for path in paths))


def _generated(source: str) -> tuple[Path, Iterator[str]] | None:
    """The file that generates a source, and its texts; None for a source that is read."""
    if (sums := additions.read_additions(source)) is not None:
        return Path(additions.__file__), sums.documents()
    return (Path(recall.__file__), recall.documents()) if source == recall.RECALL else None


def _glob(pattern: str) -> list[Path]:
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 - Path.glob does not skip hidden files
    paths = [Path(match) for match in sorted(matches) if Path(match).is_file()]
    if not paths:
        raise DataError(
            f"the source {pattern} is neither a file, a folder nor a glob that matches a file;"
            " check its spelling"
        )
    return paths


def _stat(path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(path, status.st_size, status.st_mtime_ns)


def _walk(folder: Path) -> Iterator[Path]:
    """Every readable file below `folder`; links to folders are not followed, because they may form
    a circle.
    """
    try:
        with os.scandir(folder) as entries:
            # the system's order differs between machines; ids must not
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read: {error.strerror}; change its permissions or leave"
            " it out"
        ) from error
    # what `datasets` saved lists its own files: a DatasetDict by split, a Dataset in row order
    names = {entry.name for entry in ordered}
    if "dataset_dict.json" in names:
        yield from _walk(_train_split(folder))
    elif {"dataset_info.json", "state.json"} <= names:
        yield from _dataset(folder)
    else:
        for entry in ordered:
            if entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)


def _train_split(folder: Path) -> Path:
    splits = [str(split) for split in _read_json(folder / "dataset_dict.json", "splits")]
    if "train" not in splits:
        raise DataError(
            f"the dataset {folder} has no split `train`; name the folder of one of its splits:"
            f" {', '.join(splits)}"
        )
    return folder / "train"


def _dataset(folder: Path) -> Iterator[Path]:
    """The Arrow files of a dataset folder, in the order of its rows."""
    for file in _read_json(folder / "state.json", "_data_files"):
        path = folder / str(file["filename"])
        if not path.is_file():
            raise DataError(
                f"the dataset {folder} lists {path.name}, which is not there; save the dataset"
                " again"
            )
        yield path


def _read_json(path: Path, key: str) -> list[Any]:
    try:
        values: list[Any] = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as part of a dataset folder: {error!r}; save the dataset again"
        ) from error
    return values


def _stdlib(folder: Path) -> Iterator[Path]:
    """The .py files of the standard library, without test suites and modules that describe the
    machine they run on.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in _STDLIB_LEFT_OUT:
                yield from _stdlib(path)
        elif path.suffix == ".py" and not path.name.startswith("_sysconfigdata"):
            yield path
