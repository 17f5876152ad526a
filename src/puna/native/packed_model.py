"""A model laid out for the native core, in memory or in a file that is mapped as it is.

The file is `MAGIC`, then arrays that each begin on a cache line, then their description in JSON,
its length, and `MAGIC` again: so that it is written in one pass, and that one which was cut off has
no end. A file of another version, or whose description does not fit it, raises NativeError; nothing
in it is run.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.errors import NativeError
from puna.native.packing import FORMATS, PackedLinear

MAGIC = b"PUNAPACK"
VERSION = 1
_ALIGNMENT = 64
_MOST_JSON = 1 << 24


@dataclass(frozen=True)
class DecoderShape:
    """The numbers of a decoder: L `layers` of width D with H `heads`, K `kv_heads` of C
    `head_width` and F `hidden`. positions: of the rotary tables. activation: the gate's, as in
    native/gate.h.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocabulary: int
    positions: int
    rotary_half: int
    eps: float
    embedding_scale: float
    activation: int

    def linears(self, lanes: int, *, tied: bool) -> Iterator[tuple[str, int, int]]:
        """Name, rows and columns of each matrix in panels of `lanes` rows."""
        yield "embedding", self.vocabulary, self.width
        packed = (self.heads + 2 * self.kv_heads) * self.head_width
        for index in range(self.layers):
            yield f"{index}.qkv", packed, self.width
            yield f"{index}.attention_output", self.width, self.heads * self.head_width
            yield f"{index}.gate_up", 2 * -(-self.hidden // lanes) * lanes, self.width
            yield f"{index}.down", self.width, self.hidden
        if not tied:
            yield "head", self.vocabulary, self.width

    def vectors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each other array, float32."""
        yield "norm", (self.width,)
        yield "cos", (self.positions, self.rotary_half)
        yield "sin", (self.positions, self.rotary_half)
        for index in range(self.layers):
            yield f"{index}.attention_norm", (self.width,)
            yield f"{index}.feed_forward_norm", (self.width,)


@dataclass
class PackedModel:
    """Matrices and vectors by the names that `DecoderShape` gives. lanes: rows of a panel, those of
    the tier. half: activations and the cache are bfloat16 where they are not int8.
    """

    shape: DecoderShape
    lanes: int
    half: bool
    linears: dict[str, PackedLinear] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def head(self) -> PackedLinear:
        """The output layer, which may be the embedding."""
        return self.linears.get("head", self.linears["embedding"])

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(each.nbytes for each in self.linears.values())

    def add(self, name: str, part: "PackedLinear | NDArray[np.float32]") -> None:
        """Take in one more matrix or vector."""
        if isinstance(part, PackedLinear):
            self.linears[name] = part
        else:
            self.vectors[name] = part


Part = tuple[str, PackedLinear | NDArray[np.float32]]


def write_packed(
    path: Path, shape: DecoderShape, parts: Iterable[Part], *, lanes: int, half: bool
) -> None:
    """Write the parts as they come, aside, and rename; raises OSError and leaves nothing where that
    fails.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    described: dict[str, Any] = {}
    try:
        with aside.open("wb") as file:
            file.write(MAGIC)

            def written(array: NDArray[np.generic]) -> dict[str, Any]:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                offset = file.tell()
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                return {"type": array.dtype.name, "shape": array.shape, "offset": offset}

            for name, part in parts:
                if isinstance(part, PackedLinear):
                    described[name] = {
                        "format": part.kind,
                        "rows": part.rows,
                        "columns": part.columns,
                        "group": part.group,
                        "weights": written(part.weights),
                        "scales": None if part.scales is None else written(part.scales),
                    }
                else:
                    described[name] = written(part)
            head = {"version": VERSION, "lanes": lanes, "half": half, "shape": asdict(shape)}
            text = json.dumps({**head, "parts": described}).encode()
            file.write(text + struct.pack("<Q", len(text)) + MAGIC)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def map_packed(path: Path) -> PackedModel:
    """The model of a file, its arrays mapped and read when they are used.

    Raises NativeError for a file that is no such model, and OSError for one that cannot be read.
    """
    try:
        memory = np.memmap(path, np.uint8, "r")  # ValueError where the file is empty
        return _model(memory, _description(memory))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise NativeError(
            f"{path} is no packed model of this version of Puna ({error!r}): remove it, and it is"
            " made anew"
        ) from error


def _description(memory: NDArray[np.uint8]) -> dict[str, Any]:
    tail = bytes(memory[-16:])
    if bytes(memory[:8]) != MAGIC or tail[8:] != MAGIC:
        raise ValueError("it does not begin and end as one")
    (length,) = struct.unpack("<Q", tail[:8])
    if length > min(_MOST_JSON, len(memory) - 24):
        raise ValueError("a description longer than the file")
    found = json.loads(bytes(memory[-16 - length : -16]))
    if not isinstance(found, dict) or found["version"] != VERSION:
        raise ValueError("another version")
    return found


def _model(memory: NDArray[np.uint8], found: Mapping[str, Any]) -> PackedModel:
    shape = DecoderShape(**found["shape"])
    lanes, parts = found["lanes"], found["parts"]
    if any(type(number) is not int or not 0 <= number < 1 << 31 for number in _counts(shape)):
        raise ValueError("a shape that is none")
    if any(type(getattr(shape, name)) not in (int, float) for name in _REAL):
        raise ValueError(f"no numbers in {' and '.join(_REAL)}")
    if type(lanes) is not int or not 1 <= lanes <= 64:
        raise ValueError(f"{lanes} lanes")
    model = PackedModel(shape, lanes, bool(found["half"]))
    for name, rows, columns in shape.linears(lanes, tied="head" not in parts):
        model.linears[name] = _linear(memory, parts[name], rows, columns, lanes)
    for name, dimensions in shape.vectors():
        model.vectors[name] = _array(memory, parts[name], "float32", dimensions)
    return model


def _counts(shape: DecoderShape) -> list[Any]:
    return [value for name, value in asdict(shape).items() if name not in _REAL]


_REAL = ("eps", "embedding_scale")


def _linear(
    memory: NDArray[np.uint8], found: Mapping[str, Any], rows: int, columns: int, lanes: int
) -> PackedLinear:
    kind, group = found["format"], found["group"]
    if kind not in FORMATS or type(group) is not int or group < 0 or group % 32:
        raise ValueError(f"format {kind!r} with groups of {group!r}")
    if (found["rows"], found["columns"]) != (rows, columns):
        raise ValueError(f"{found['rows']} x {found['columns']} in place of {rows} x {columns}")
    linear = PackedLinear(kind, rows, columns, lanes, np.empty(0, np.uint8), None, group)
    weights = _array(memory, found["weights"], "uint8", (linear.weight_bytes,))
    scales = None
    if (dimensions := linear.scales_shape) is not None:
        scales = _array(memory, found["scales"], "float16" if group else "float32", dimensions)
    return replace(linear, weights=weights, scales=scales)


def _array(
    memory: NDArray[np.uint8], found: Mapping[str, Any], kind: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    offset, size = found["offset"], int(np.prod(shape, dtype=object)) * np.dtype(kind).itemsize
    if found["type"] != kind or tuple(found["shape"]) != shape:
        raise ValueError(f"{found['type']} {found['shape']} in place of {kind} {list(shape)}")
    if type(offset) is not int or offset % _ALIGNMENT or not 0 <= offset <= len(memory) - size:
        raise ValueError(f"an array at {offset!r}, outside the file")
    return memory[offset : offset + size].view(kind).reshape(shape)
