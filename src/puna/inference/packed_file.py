"""The packed file beside a model: made once for each format and width of registers, then mapped.

It lies in the folder `.puna` of a model folder, or beside a GGUF file, and its name has a hash of
what it was made from. Where none can be written (no permission, no space) the model is packed in
memory at each start.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from puna.errors import NativeError
from puna.inference.native_weights import parts_of, shape_of, weights_format
from puna.native.packed_model import VERSION, PackedModel, map_packed, write_packed

if TYPE_CHECKING:
    from puna.model.transformer import Transformer

log = logging.getLogger("puna.inference")
_SOURCES = ("*.json", "*.safetensors")


def packed_path(model: Path, kind: str, lanes: int) -> Path:
    """The place of a model's packed file, whether it is there or not.

    The hash is of the names, sizes and times of the model's files: of gigabytes their contents
    would take longer to read than a start may last.
    """
    files = [model] if model.is_file() else [f for glob in _SOURCES for f in model.glob(glob)]
    state = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files)]
    hash_ = hashlib.sha256(json.dumps([VERSION, state]).encode()).hexdigest()[:16]
    folder = model.parent if model.is_file() else model / ".puna"
    prefix = f"{model.name}." if model.is_file() else ""
    return folder / f"{prefix}{kind}-{lanes}-{hash_}.packed"


def packed_model(
    path: Path, source: Path, read: "Callable[[], Transformer]", weights: str, lanes: int
) -> PackedModel:
    """The model of a packed file, which is made where it is not there or is damaged.

    source: the model's folder or file. read: opens it with PyTorch. weights: a format, or "auto"
    for the model's own.
    """
    try:
        return map_packed(path)
    except FileNotFoundError:
        pass
    except (NativeError, OSError, ValueError) as error:
        log.warning("%s", error)
    from puna.quantization.stored import is_quantized, quantized_matrices

    model = read()
    quantized = weights == "auto" and is_quantized(source)
    stored = quantized_matrices(source) if quantized else {}
    kind = weights_format(model, weights, quantized=quantized)
    shape, half = shape_of(model), kind != "float32"
    try:
        path.parent.mkdir(exist_ok=True)
        write_packed(path, shape, parts_of(model, kind, lanes, stored), lanes=lanes, half=half)
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): the model is packed again at the next start", path, error
        )
        packed = PackedModel(shape, lanes, half)
        for name, part in parts_of(model, kind, lanes, stored):
            packed.add(name, part)
        return packed
    _remove_older(path)
    return map_packed(path)


def _remove_older(path: Path) -> None:
    """Remove what was made from earlier states of the model."""
    stem = path.name.rpartition("-")[0]
    for other in path.parent.glob(f"{stem}-*.packed"):
        if other != path:
            other.unlink(missing_ok=True)
