"""The files of a model folder: where its weights are, and what a folder is that is none.

A folder of the hub's cache (models--owner--name) stands for its newest snapshot, whose files are
links into the cache. No other link may lead out of a model folder. Pickles are never opened.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puna.errors import ModelFolderError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SHARD = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})\.safetensors")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# a header of 16 MiB describes more than 100,000 tensors; Llama 3.1 405B has 1,138
HEADER_BYTES = 1 << 24


def model_folder(path: Path) -> Path:
    """The folder itself, or the newest snapshot where it is one of the hub's cache. Raises
    ModelFolderError for a path that is no folder.
    """
    if path.is_file():
        raise ModelFolderError(f"{path} is a file and no model folder{_as_import(path)}")
    if not path.is_dir():
        raise ModelFolderError(
            f"{path} is no model folder: it has no config.json, for it is not there"
        )
    snapshots = path / "snapshots"
    if (path / "config.json").exists() or not snapshots.is_dir():
        return path
    main = path / "refs" / "main"
    if main.is_file():
        name = main.read_text(encoding="utf-8", errors="replace").strip()
        if Path(name).name == name and (snapshots / name).is_dir():
            return snapshots / name
    found = sorted(each for each in snapshots.iterdir() if each.is_dir())
    if len(found) != 1:
        raise ModelFolderError(
            f"{path} is a folder of the hub's cache with {len(found)} snapshots and no refs/main:"
            " give the path of one snapshot"
        )
    return found[0]


def _as_import(path: Path) -> str:
    return f"; puna import {path} OUT makes one of it" if path.suffix == ".gguf" else ""


def read_json_object(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of the folder. Raises ModelFolderError, for a missing file with what the
    folder is instead.
    """
    path = folder / name
    if not path.is_file():
        raise ModelFolderError(f"{folder} is no model folder: it has no {name}{_kind(folder)}")
    _check_place(folder, [path])
    try:
        text = path.read_bytes()
        if text.startswith(LFS_POINTER):
            raise ModelFolderError(_pointer(path))
        values = json.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelFolderError(
            f"{path} holds {type(values).__name__}, but a {name} is one object of keys and values"
        )
    return values


def _kind(folder: Path) -> str:
    """A clause that says what the folder is instead of a model folder, and what to do."""
    if (folder / "adapter_config.json").is_file():
        return (
            "; it is a LoRA adapter: name the folder of its base model, and give this one as"
            " --adapter"
        )
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if ggufs:
        return f"; it holds {ggufs[0]}: type puna import {folder / ggufs[0]} OUT"
    if (folder / "params.json").is_file() and any(folder.glob("consolidated*")):
        return f"; it is a checkpoint in Meta's layout: type puna import {folder} OUT"
    if list(folder.glob("ckpt*.pt")) or list(folder.glob("model*.bin")):
        return f"; it holds a checkpoint of another program: type puna import {folder} OUT"
    inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inner:
        return f"; its folder {inner[0]} has one: give {folder / inner[0]}"
    return ""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order: model.safetensors, those of the index, all
    shards of one name, or the only one there is.

    Raises ModelFolderError, also where there are only pickles, for a link that leads elsewhere, and
    for a file that is a Git LFS pointer or has a header of impossible length.
    """
    files = _found(folder)
    _check_place(folder, files)
    for path in files:
        _check_header(path)
    return files


def _found(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _of_index(folder)
    others = sorted(path for path in folder.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS)
    shards = [match for path in others if (match := SHARD.fullmatch(path.name))]
    if shards:
        return _all_shards(folder, shards)
    if len(others) == 1:
        return others
    if others:
        raise ModelFolderError(
            f"{folder} holds several safetensors files ({_some(path.name for path in others)}) and"
            f" none is {WEIGHTS}: rename the one that holds the model"
        )
    pickles = sorted(
        path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.glob(suffix)
    )
    if pickles:
        raise ModelFolderError(
            f"{folder} holds its weights as pickles ({_some(pickles)}), which can run code when"
            " opened; convert them to safetensors on a machine that you can lose"
        )
    raise ModelFolderError(f"{folder} holds no {WEIGHTS} and no {INDEX}{_kind(folder)}")


def _of_index(folder: Path) -> list[Path]:
    try:
        weight_map = read_json_object(folder, INDEX)["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{folder / INDEX} is not an index of weights: {error!r}") from error
    # A name with a folder in it could lead out of the model's
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{folder / INDEX} names files that are not in the folder: {_some(missing)}"
        )
    return [folder / name for name in names]


def _all_shards(folder: Path, shards: list[re.Match[str]]) -> list[Path]:
    """The shards where they are all of one name and of one number, and none is missing."""
    kinds = {(shard[1], shard[3]) for shard in shards}
    if len(kinds) > 1:
        raise ModelFolderError(
            f"{folder} holds shards of several models"
            f" ({_some(shard.string for shard in shards)}) and no index: keep those of one"
        )
    count = int(shards[0][3])
    if len(shards) != count:
        raise ModelFolderError(
            f"{folder} holds {len(shards)} of {count} shards"
            f" ({_some(shard.string for shard in shards)}): copy the others too"
        )
    return [folder / shard.string for shard in shards]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _check_place(folder: Path, paths: list[Path]) -> None:
    """Raise ModelFolderError for a file that lies outside the folder, or outside the cache of the
    hub whose snapshot it is.
    """
    here = folder.resolve()
    home = here.parent.parent if here.parent.name == "snapshots" else here
    for path in paths:
        place = path.resolve()
        if not place.is_relative_to(home):
            raise ModelFolderError(
                f"{path} is a link to {place}, which lies outside of the model's folder: copy the"
                " file into it"
            )


def _check_header(path: Path) -> None:
    """Raise ModelFolderError where the first bytes of a safetensors file rule it out."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        size = path.stat().st_size
    except OSError as error:
        raise ModelFolderError(f"cannot read {path}: {error}") from error
    if start == LFS_POINTER:
        raise ModelFolderError(_pointer(path))
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > min(size - 8, HEADER_BYTES):
        raise ModelFolderError(
            f"{path} is not a whole safetensors file: it has {size} bytes, and says that its header"
            f" has {length}, which may be {HEADER_BYTES} at most; copy it again"
        )


def _pointer(path: Path) -> str:
    return (
        f"{path} is a Git LFS pointer and not the file itself: type git lfs pull in the repository"
        " that it comes from"
    )
