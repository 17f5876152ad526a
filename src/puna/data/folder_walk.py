"""The files below a folder in the order of names, and what is passed over on the way.

Passed over in silence: hidden names, `__pycache__`, and files that the endings of a `Reading` leave
out. Passed over and reported: links to folders, which may form a circle; links that lead nowhere;
what cannot be read; of a folder with the splits of a dataset all but `train`; and what Puna itself
wrote.

What it is not: no text is read. Cost: one `scandir` a folder.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from puna.data.left_out import LeftOutKind, printable
from puna.data.reading import Reading
from puna.errors import DataError

Walked = Iterator[Path | tuple[LeftOutKind, str]]
"""Files to read, and what is left out: its kind and name."""

_TRAIN_FILE = re.compile(r"train-\d+-of-\d+")
"""A file of the split `train` as the Hugging Face Hub names them."""


def walk_folder(folder: Path, reading: Reading, own: Sequence[Path] = ()) -> Walked:
    """Every file below `folder`. own: folders that are not gone into, such as the output's.

    Raises DataError where `folder` itself, or the list of a dataset folder, cannot be read.
    """
    try:
        entries = _entries(folder)
    except OSError as error:
        raise DataError(
            f"the folder {printable(folder)} cannot be read: {error.strerror}; change its"
            " permissions or leave it out"
        ) from error
    return _walk(folder, entries, reading, [path.resolve() for path in own])


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        # the system's order differs between machines; ids must not
        return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _walk(
    folder: Path, entries: list[os.DirEntry[str]], reading: Reading, own: list[Path]
) -> Walked:
    # what `datasets` saved lists its own files: a DatasetDict by split, a Dataset in row order
    names = {entry.name for entry in entries}
    if "dataset_dict.json" in names:
        train = _train_split(folder)
        yield from _walk(train, _entries(train), reading, own)
    elif {"dataset_info.json", "state.json"} <= names:
        yield from _dataset(folder)
    elif _is_own(folder, names, own):
        yield "own_files", printable(folder)
    else:
        snapshot = _holds_train_files(folder, names)
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            yield from _entry(entry, reading, own, train_alone=snapshot)


def _entry(
    entry: os.DirEntry[str], reading: Reading, own: list[Path], *, train_alone: bool
) -> Walked:
    path = Path(entry.path)
    try:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, _entries(path), reading, own)
        elif entry.is_dir():
            yield "links", printable(path)
        elif not reading.takes(entry.name):
            return
        elif not entry.is_file():
            yield "damaged", f"{printable(path)} is {_other_kind(entry)}"
        elif train_alone and not _TRAIN_FILE.match(entry.name):
            yield "other_splits", printable(path)
        else:
            yield path
    except OSError as error:  # a link to itself, a folder without permission
        yield "damaged", f"{printable(path)} cannot be read: {error.strerror}"


def _other_kind(entry: os.DirEntry[str]) -> str:
    return "a link that leads nowhere" if entry.is_symlink() else "no file but a pipe or a device"


def _holds_train_files(folder: Path, names: set[str]) -> bool:
    """A snapshot of a dataset on the Hub: its files lie in it, or in its folder `data`."""
    if "data" in names and (folder / "data").is_dir():
        try:
            names = names | {entry.name for entry in _entries(folder / "data")}
        except OSError:
            return False
    return any(_TRAIN_FILE.match(name) for name in names)


def _is_own(folder: Path, names: set[str], own: list[Path]) -> bool:
    """A folder of the caller's, or one that a run, `puna data prepare` or a study wrote."""
    if "recipe.yaml" in names and "metrics.jsonl" in names:
        return True
    if "tokenizer.json" in names and not names.isdisjoint({"manifest.json", "journal.json"}):
        return True
    return bool(own) and folder.resolve() in own


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
