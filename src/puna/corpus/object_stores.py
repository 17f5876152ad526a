"""Files in object stores, named by an address: s3://BUCKET/..., gs://BUCKET/...,
hf://datasets/OWNER/NAME/..., and whatever else fsspec opens.

A file is copied to this machine's disk while it is read, because formats such as Parquet and ZIP
are read from their ends; so a reading process takes the disk space of one file. fsspec, and the
package that an address needs, are of the extra `cloud`.
"""

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from puna.corpus.extra_packages import import_extra
from puna.data.reading import Reading
from puna.errors import DataError


class StoredObject(NamedTuple):
    """One file of a store."""

    address: str
    size: int
    version: str
    """A tag or time that changes with the content."""


def is_address(path: str) -> bool:
    """True for what an object store holds, not this machine's file system."""
    return "://" in path


def find_objects(address: str, reading: Reading) -> list[StoredObject]:
    """The files below a folder, of a glob, or the one file, in the order of their names, without
    hidden ones. Raises DataError where there are none or the store cannot be asked.
    """
    system, path = _open(address)
    try:
        if any(mark in path for mark in "*?["):
            found = system.glob(path, detail=True)
        elif system.isfile(path):
            found = {path: system.info(path)}
        else:
            found = system.find(path, detail=True)
    except Exception as error:  # an unreachable store: each package has a kind of its own
        raise DataError(f"{address} cannot be listed: {error}; check name and access") from error
    names = sorted(
        name
        for name, info in found.items()
        if info["type"] == "file"
        and reading.takes(posixpath.basename(name))
        and not any(part.startswith(".") for part in name.split("/"))
    )
    if not names:
        raise DataError(f"{address} holds no files to read; check its spelling, or name another")
    return [
        StoredObject(
            system.unstrip_protocol(name), int(found[name]["size"] or 0), _version(found[name])
        )
        for name in names
    ]


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """The file at a path or address as one of this machine, for as long as the context."""
    if not is_address(location):
        yield Path(location)
        return
    system, path = _open(location)
    with tempfile.TemporaryDirectory(prefix="puna-object-") as folder:
        copy = Path(folder) / posixpath.basename(path)
        try:
            system.get_file(path, str(copy))
        except Exception as error:  # as above
            raise DataError(f"{location} cannot be read: {error}; run the same again") from error
        yield copy


def _open(address: str) -> tuple[Any, str]:
    fsspec = import_extra("fsspec", "cloud", address)
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{address} cannot be opened: {error}; pip install 'puna[cloud]', or check its spelling"
        ) from error
    return system, path


def _version(info: dict[str, Any]) -> str:
    """The first of the facts that stores give, each under its own name."""
    keys = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "updated", "created")
    return next((str(info[key]) for key in keys if info.get(key)), "")
