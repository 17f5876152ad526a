"""The files of a corpus, found before any is read, and cut into tasks that one process each reads.

A task is a run of files of one source, in the order of their names, of about `TASK_BYTES`; a larger
file ends one. What is found depends on names and sizes alone, not on the number of
processes.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import xxhash

from puna.config import Config
from puna.corpus.corpus_recipe import CorpusSource
from puna.corpus.object_stores import find_objects, is_address
from puna.data.left_out import LeftOut, LeftOutKind
from puna.data.sources import find_sources, is_generated
from puna.errors import DataError

TASK_BYTES = 2**26
"""As stored."""


_NOT_OWN_CODE = frozenset(
    {"node_modules", "vendor", "third_party", "third-party", "site-packages", "bower_components"}
)
_LOCK_FILES = frozenset(
    {"package-lock.json", "yarn.lock", "pnpm-lock.yaml", "poetry.lock", "Cargo.lock", "go.sum"}
)


class InputFile(NamedTuple):
    """One file of a source."""

    location: str
    """A path of this machine, or an address with `://`."""
    size: int
    """Bytes as stored."""
    version: str
    """Another one where the file was altered."""


class InputFiles(Config):
    """The files of one source in reading order."""

    files: tuple[InputFile, ...]
    passed_over: tuple[tuple[LeftOutKind, str], ...] = ()

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return sum(file.size for file in self.files)

    @property
    def files_hash(self) -> str:
        """32 hex digits of all files' names, sizes and versions."""
        lines = "".join("\0".join(map(str, file)) + "\n" for file in self.files)
        return xxhash.xxh3_128_hexdigest(lines.encode("utf-8", "surrogateescape"))

    def report_passed_over(self, left_out: LeftOut) -> None:
        """Count and name what was found and is not read."""
        for kind, name in self.passed_over:
            left_out.add(kind, name)


def find_files(source: CorpusSource, own: Sequence[Path]) -> InputFiles:
    """The files of a source. own: folders that are not gone into. Raises DataError where a path
    leads to no file.
    """
    files: list[InputFile] = []
    passed_over: list[tuple[LeftOutKind, str]] = []
    for path in source.paths:
        if is_generated(path):
            raise DataError(
                f"{path} is generated while it is read and needs no stages: prepare it with `puna"
                f" data prepare {path} --tokenizer DIR --out DIR`"
            )
        if is_address(path):
            stored = [InputFile._make(found) for found in find_objects(path, source)]
            files += [file for file in stored if _is_read(file.location.removeprefix(path), source)]
            continue
        (found,) = find_sources([path], source, own)
        files += [
            InputFile(str(file.path), file.size, str(file.modified_ns))
            for file in found.files
            if _is_read(os.path.relpath(file.path, found.root), source)
        ]
        passed_over += found.passed_over
    if not files:
        raise DataError(
            f"the source {source.name} holds no files of the format {source.format}; check paths"
            " and format"
        )
    return InputFiles(files=tuple(files), passed_over=tuple(passed_over))


def _is_read(name: str, source: CorpusSource) -> bool:
    """True for a file, named from its source's folder on, that the source's format is about."""
    path = PurePosixPath(name)
    match source.format:
        case "code":
            return not _NOT_OWN_CODE.intersection(path.parts) and path.name not in _LOCK_FILES
        case "stack_exchange":
            return path.name.lower().startswith("posts.xml")
        case "latex":
            return path.name.lower().endswith((".tex", ".tar", ".gz", ".tgz"))
    return True


def task_files(files: Sequence[InputFile]) -> list[tuple[InputFile, ...]]:
    """The files in runs of about `TASK_BYTES`."""
    # a file belongs to the run in which it begins
    begins = itertools.accumulate((file.size for file in files), initial=0)
    numbered = itertools.groupby(zip(begins, files, strict=False), lambda at: at[0] // TASK_BYTES)
    return [tuple(file for _, file in run) for _, run in numbered]
