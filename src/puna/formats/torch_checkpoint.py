"""Checkpoints of `torch.save`, opened without running what they hold.

A checkpoint is a ZIP archive of a pickle and the raw tensors. The archive is checked first (nothing
packed, nothing that overlaps, no oversized pickle), then `torch.load(weights_only=True)` reads the
pickle with an unpickler that knows tensors and plain values only; tensors are views of the mapped
file. Not here: pickles without that archive, which are refused.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from puna.errors import ModelFolderError

MAX_PICKLE_BYTES = 4 << 20
"""Bound on the pickle in the archive: of the largest published LLaMA it has 0.3 MB."""

_REMEDY = (
    "; load it on a machine that you can lose, save its tensors alone with torch.save(state_dict),"
    " and import that"
)


def read_checkpoint(path: Path) -> Any:
    """The value in a checkpoint, its tensors as views of the file.

    Raises ModelFolderError for a file that is no such archive, that is cut or damaged, or whose
    pickle asks for more than tensors and plain values.
    """
    sizes = _record_sizes(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise ModelFolderError(
            f"{path} is refused: its pickle asks for more than tensors and plain values"
            f" ({_reason(error)}){_REMEDY}"
        ) from None
    except Exception as error:  # the bytes decide what the library stumbles over
        raise ModelFolderError(
            f"{path} is a damaged checkpoint ({_reason(error)}): copy it again"
        ) from error
    _check_tensors(path, value, sizes)
    return value


def state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint; raises ModelFolderError where it holds anything else."""
    if not isinstance(value, Mapping) or not value:
        raise ModelFolderError(f"{path} holds no named tensors, but {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelFolderError(
                f"{path} holds {str(name)[:80]!r} of type {type(tensor).__name__} among its"
                " weights, where only tensors by name belong"
            )
        if not tensor.is_floating_point() or tensor.is_sparse or tensor.is_meta:
            raise ModelFolderError(
                f"{path}: {name} is a tensor of {tensor.dtype}; only float32, float16 and bfloat16"
                " are read, so import the checkpoint that was not quantized"
            )
    return dict(value)


def _reason(error: Exception) -> str:
    """The cause that an error of the library names, without its advice."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it names {found[1]}"
    lines = [line.strip() for line in text.splitlines() if "weights_only" not in line]
    return next(filter(None, lines), type(error).__name__)[:200]


def _record_sizes(path: Path) -> set[int]:
    """The sizes of the archive's tensors; raises ModelFolderError unless it has `torch.save`'s
    form.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(2)
        if first[:1] == b"\x80":
            raise ModelFolderError(
                f"{path} is a bare pickle, which can run code when opened, and no archive as"
                f" torch.save writes it since PyTorch 1.6{_REMEDY}"
            )
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelFolderError(
            f"{path} is no whole checkpoint of torch.save ({error}): copy it again"
        ) from error
    names = [entry.filename for entry in entries]
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    stored = all(
        entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        for entry in entries
    )
    whole = sum(entry.file_size for entry in entries) <= length and len(set(names)) == len(names)
    if len(pickles) != 1 or not stored or not whole:
        raise ModelFolderError(
            f"{path} is a ZIP archive, but not one that torch.save writes (one data.pkl, every"
            " entry stored once and unpacked): name the checkpoint itself"
        )
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ModelFolderError(
            f"{path}: its pickle has {pickles[0].file_size:,} bytes, more than the"
            f" {MAX_PICKLE_BYTES:,} that a model's needs{_REMEDY}"
        )
    return {entry.file_size for entry in entries}


def _check_tensors(path: Path, value: Any, sizes: set[int]) -> None:
    """Raise ModelFolderError where tensors claim more bytes than the file has for them."""
    total = 0
    for tensor in _tensors(value):
        if tensor.is_meta or tensor.is_sparse:
            continue
        storage = tensor.untyped_storage().nbytes()
        total += tensor.nbytes
        if storage not in sizes or tensor.nbytes > storage:
            raise ModelFolderError(
                f"{path}: a tensor of shape {list(tensor.shape)} claims {tensor.nbytes:,} bytes,"
                " but the archive holds no entry of that size: copy the file again"
            )
    # A tied matrix counts twice
    if total > 2 * path.stat().st_size:
        raise ModelFolderError(
            f"{path}: its tensors claim {total:,} bytes of a file of {path.stat().st_size:,}: copy"
            " it again"
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested plain values, each value visited once."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, Mapping) else item)
