"""Files inside .tar and .zip archives, one after the other, in the archive's order.

Each member is copied to a temporary file, so that whatever reads files reads it, also twice, and
memory stays that of one block. Hidden members, `__pycache__` and `__MACOSX` are passed over as they
are in folders; links, and archives inside archives, are left out.

Cost: reading and writing each member once more than a file of a folder; disk space of the largest
member.
"""

import errno
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Self

from puna.data.left_out import FileReport, printable
from puna.data.packed import packing, unpacked
from puna.data.reading import Reading
from puna.errors import DataError

ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
"""Whatever the two readers raise for damage, and for what they cannot unpack."""

_TAR = (".tar", ".tgz", ".tbz2", ".txz", ".tzst")
_SHORT = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}
_PASSED_OVER = ("__pycache__", "__MACOSX")


class ArchiveMember(NamedTuple):
    """A file that was copied out of an archive."""

    name: str
    path: Path
    """Temporary: replaced by the next member."""
    position: int
    """Stored bytes of the archive that were read so far."""


def archive_kind(name: str) -> str | None:
    """`tar` or `zip` by the ending of a name, or None."""
    name = name.lower()
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.removesuffix(packing(name) or "").endswith(_TAR) else None


def archive_members(
    path: Path, name: str, reading: Reading, report: FileReport
) -> Iterator[ArchiveMember]:
    """The members of an archive that are to be read; links and archives in it are reported."""
    with tempfile.TemporaryDirectory(prefix="puna-archive-") as folder:
        members = _zip(path) if archive_kind(name) == "zip" else _tar(path, name)
        for member, content, position in members:
            if _is_hidden(member) or not reading.takes(member):
                continue
            if content is None:
                report.add("links", printable(member))
            elif archive_kind(member) is not None:
                report.add("damaged", f"{printable(member)} is an archive too; unpack it first")
            else:
                copy = Path(folder) / "member"
                _copy(content, copy)
                yield ArchiveMember(member, copy, position)


def _is_hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return any(part.startswith(".") or part in _PASSED_OVER for part in parts)


class _WholeTarInfo(tarfile.TarInfo):
    """A header that raises ReadError where an archive breaks off in it; `tarfile` takes that for
    the end.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if str(error) in ("truncated header", "bad checksum", "invalid header"):
                raise tarfile.ReadError(str(error)) from error
            raise


def _tar(path: Path, name: str) -> Iterator[tuple[str, IO[bytes] | None, int]]:
    ending = next((_SHORT[short] for short in _SHORT if name.lower().endswith(short)), "")
    with (
        unpacked(path, name + ending) as (reader, stored),
        tarfile.open(
            fileobj=reader, mode="r|", errors="surrogateescape", tarinfo=_WholeTarInfo
        ) as archive,
    ):
        for member in archive:
            if member.isreg():
                yield member.name, archive.extractfile(member), stored.tell()
            elif not member.isdir():
                yield member.name, None, stored.tell()


def _zip(path: Path) -> Iterator[tuple[str, IO[bytes] | None, int]]:
    position = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            position += member.compress_size
            if not member.is_dir():
                yield member.filename, _zip_content(archive, member), position


def _zip_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return archive.open(member)
    except RuntimeError as error:  # encrypted
        raise zipfile.BadZipFile(str(error)) from error


def _copy(content: IO[bytes], copy: Path) -> None:
    with content, copy.open("wb") as file:
        try:
            shutil.copyfileobj(content, file, 2**20)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"no space left to unpack an archive in {copy.parent}; free some, or unpack the"
                    " archive yourself and name the folder"
                ) from error
            raise
