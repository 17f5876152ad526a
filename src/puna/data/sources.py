"""Sources of text that a user may name, and the stream of their documents in an order that depends
on names alone.

A source is one string:

    FOLDER          every file below it, in the order of names, without hidden files, `__pycache__`
        and binary files
    GLOB            'books/**/*.txt' (quoted, so that the shell leaves it alone)
    FILE            of any format that `file_formats.py` lists
    DATASET FOLDER  what the `datasets` library writes with `save_to_disk`, or a snapshot of a
        dataset on the Hub; of a folder with splits, the split `train`
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
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import xxhash

from puna.data import additions, recall
from puna.data.document import FileDocument
from puna.data.file_formats import read_file
from puna.data.folder_walk import walk_folder
from puna.data.left_out import NAMED, LeftOut, LeftOutKind, printable
from puna.data.reading import DEFAULT_READING, Reading
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

    passed_over: tuple[tuple[LeftOutKind, str], ...] = ()
    """The kind and name of what was found and is not read."""

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
            digest.update(os.fsencode(f"{name}\0{file.size}\0{file.modified_ns}\n"))
        return digest.hexdigest()

    def in_order(self, *, spread: bool) -> Sequence[SourceFile]:
        """The files in the order of their names, or `spread` in that of a hash of them, so that the
        first bytes of a source are a sample of all of it.
        """
        if not spread:
            return self.files
        return sorted(
            self.files,
            key=lambda file: xxhash.xxh3_128_digest(
                os.fsencode(os.path.relpath(file.path, self.root))
            ),
        )


def find_sources(
    sources: Sequence[str], reading: Reading = DEFAULT_READING, own: Sequence[Path] = ()
) -> list[Source]:
    """Find the files of every source, before any text is read.

    reading: its endings leave files of folders and globs out. own: folders that are not gone into.
    Raises DataError for no sources at all, for a source that does not exist and for one that holds
    no file.
    """
    if not sources:
        raise DataError("no source was given; name a folder, a file, a glob or python-stdlib")
    return [_find(source, reading, own) for source in sources]


def read_documents(
    sources: Iterable[Source],
    reading: Reading = DEFAULT_READING,
    left_out: LeftOut | None = None,
    *,
    spread: bool = False,
) -> Iterator[Document]:
    """Stream the documents of the sources, one source after the other, each in the order of its
    files' names, or `spread` in that of a hash of them.

    left_out: counts and names, while the stream is consumed, what is not read; it may stop the
    stream. Raises DataError at the end of a source in which there was no text at all, or more that
    is bad than `left_out` allows. The usual mistake: to read the counts before the stream is
    exhausted.
    """
    left_out = LeftOut() if left_out is None else left_out
    base = 0  # stored bytes of the files before this one
    for source in sources:
        found = 0
        for kind, name in source.passed_over:
            left_out.add(kind, name)
        for file in source.in_order(spread=spread):
            for text, position in _rows(source, file, reading, left_out):
                if not text or text.isspace():
                    left_out.add("empty", printable(file.path))
                else:
                    found += 1
                    yield Document(text, file.path, base + position)
            base += file.size
        left_out.finish_source(printable(source.name), found, len(source.files))


def _rows(
    source: Source, file: SourceFile, reading: Reading, left_out: LeftOut
) -> Iterator[FileDocument]:
    if (generated := _generated(source.name)) is not None:
        return (FileDocument(text, file.size) for text in generated[1])
    return read_file(file.path, reading, left_out)


def read_texts(
    sources: Sequence[str],
    reading: Reading = DEFAULT_READING,
    left_out: LeftOut | None = None,
    *,
    max_bytes: int | None = None,
    spread: bool = False,
    own: Sequence[Path] = (),
) -> Iterator[str]:
    """Stream only the texts of the sources, such as a tokenizer's training wants them.

    max_bytes: stop with the document that brings the UTF-8 text to this many bytes. spread: files
    in the order of a hash of their names, for a reader that stops early. own: see `find_sources`.
    Raises DataError as `find_sources` (before the first text) and `read_documents` do.
    """
    found = find_sources(sources, reading, own)
    return _texts(read_documents(found, reading, left_out, spread=spread), max_bytes)


def _texts(documents: Iterable[Document], max_bytes: int | None) -> Iterator[str]:
    taken = 0
    for document in documents:
        yield document.text
        taken += len(document.text.encode())
        if max_bytes is not None and taken >= max_bytes:
            return


def _find(source: str, reading: Reading, own: Sequence[Path]) -> Source:
    if (generated := _generated(source)) is not None:
        generator = _stat(generated[0])  # another generator, other texts
        return Source(source, generator.path.parent, (generator,))
    passed_over: list[tuple[LeftOutKind, str]] = []
    if source == PYTHON_STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        paths = list(_stdlib(root))
    elif is_site_packages(source):
        root, paths = site_packages_files(source)
    elif (path := Path(source).expanduser()).is_dir():
        root, paths = path, []
        for found in walk_folder(path, reading, own):
            if isinstance(found, Path):
                paths.append(found)
            else:
                passed_over.append(found)
    elif path.exists():
        root, paths = path.parent, [path]
    else:
        paths = [path for path in _glob(source) if reading.takes(path.name)]
        root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    files = []
    for path in paths:
        try:
            files.append(_stat(path))
        except OSError as error:  # gone, or a link to itself
            passed_over.append(("damaged", f"{printable(path)} cannot be read: {error.strerror}"))
    if not files:
        names = [name for _, name in passed_over[:NAMED]]
        raise DataError(
            f"the source {printable(source)} holds no files to read"
            + (f" but passes over {'; '.join(names)}" if names else "")
            + "; put text into it or name another"
        )
    return Source(source, root, tuple(files), tuple(passed_over))


def is_generated(source: str) -> bool:
    """True for a source whose texts are made while it is read."""
    return _generated(source) is not None


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
            f"the source {printable(pattern)} is neither a file, a folder nor a glob that matches a"
            " file; check its spelling"
        )
    return paths


def _stat(path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(path, status.st_size, status.st_mtime_ns)


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
