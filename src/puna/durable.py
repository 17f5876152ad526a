"""Files and folders that are either whole or not there: write aside, fsync, rename.

Every artefact that a later step reads (tokenizers, shards, manifests, checkpoints, summaries) goes
through here, so that a kill or a full disk at any moment leaves the last good version in place. A
rename within a folder is atomic on POSIX file systems; the fsync of the folder makes it last
through a power cut.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sync_path(path: Path) -> None:
    """fsync one file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is fsynced and renamed to `path`, on
    failure removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield aside
        sync_path(aside)
        aside.replace(path)
        sync_path(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; on success its files are fsynced and it takes
    the place of `path`.

    An existing `path` is moved aside first and deleted last, so a kill between the two renames
    leaves both versions on disk, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    old = aside.with_suffix(".old")
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            sync_path(file)
        sync_path(aside)
        if path.exists():
            path.rename(old)
        aside.rename(path)
        sync_path(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with new_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all; NaN and infinity raise ValueError,
    because JSON has no word for them.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
