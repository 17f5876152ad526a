"""The container of a GGUF file: metadata and a table of tensors, checked against the size of the
file before any of it is believed.

The file is mapped into memory; what is read is the metadata and the table, and a tensor when it is
asked for. This file knows nothing of models: names and values mean what the readers beside it say.
Reading SmolLM2's 98,000 strings takes 0.1 s.

Source: the GGUF specification, versions 2 and 3 (ggml, docs/gguf.md): little endian; a string is a
length of 64 bits and UTF-8; an array is a type, a count of 64 bits and the values.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from puna.errors import ModelFolderError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES = 1 << 14  # of the metadata, and of the table of tensors: Llama 3.1 405B has 1,138
MAX_TEXT_BYTES = 1 << 25  # of one text: some files hold a whole tokenizer.json
MAX_STRINGS = 1 << 20  # of all arrays: Gemma 3's 262,208 tokens and their merges are 777,000
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 4

Value = str | int | float | bool | list[str] | npt.NDArray[np.generic]
"""A value of the metadata; an array of numbers is a numpy array, one of strings a list."""
Kind = TypeVar("Kind", str, int, float, bool)

_STRING, _ARRAY, _BOOL = 8, 9, 7
# the specification's number of a type -> its little endian spelling for struct and numpy
_NUMBERS: Mapping[int, str] = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    _BOOL: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class GGUFTensor:
    """A row of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    """As PyTorch has it, rows first: the reverse of the file's order."""
    type: GGMLQuantizationType
    start: int
    """Byte of the file at which the values begin."""
    num_bytes: int


class GGUFFile:
    """An open GGUF file: `metadata` by key, `tensors` by name, and the bytes of a tensor.

    Raises ModelFolderError for what is no GGUF file, is cut short, or contradicts itself: lengths,
    counts and offsets beyond the file, unknown types, a name twice, tensors that overlap; and for
    one of several parts of a model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: of no length
            raise ModelFolderError(f"{path} cannot be read as a GGUF file: {error}") from error
        cursor = _Cursor(path, self._data)
        cursor.check(self._data[:4] == MAGIC, "it does not begin with the letters GGUF", at=0)
        cursor.at = 4
        version = cursor.whole(4)
        if version not in VERSIONS:
            old = "of big endian machines" if version & 0xFFFF == 0 else f"of version {version}"
            raise ModelFolderError(
                f"{path} is a GGUF file {old}; only versions 2 and 3 in little endian are read:"
                " convert it with llama.cpp's tools"
            )
        num_tensors, num_entries = cursor.whole(8), cursor.whole(8)
        for count, of in ((num_tensors, "tensors"), (num_entries, "entries of metadata")):
            cursor.check(
                count <= MAX_ENTRIES, f"it announces {count} {of}, more than {MAX_ENTRIES}"
            )
        self.metadata = _read_metadata(cursor, num_entries)
        if self.metadata.get("split.count", 1) not in (0, 1):
            raise ModelFolderError(
                f"{path} is one of {self.metadata['split.count']} parts of a model; join them with"
                " llama.cpp's `llama-gguf-split --merge`"
            )
        self.tensors = _read_table(cursor, num_tensors, self.number("general.alignment", int, 32))

    def raw(self, tensor: GGUFTensor, rows: slice = slice(None)) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor's rows, uint8 [rows, bytes a row], a view of the mapped file."""
        flat = np.frombuffer(self._data, np.uint8, tensor.num_bytes, tensor.start)
        count = math.prod(tensor.shape[:-1])
        return flat.reshape(count, tensor.num_bytes // count)[rows]

    def number(self, key: str, kind: type[Kind], default: Kind | None = None) -> Kind:
        """A value of the metadata of this Python type. Raises ModelFolderError for another, and for
        none where there is no default.
        """
        value = self.metadata.get(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        # Python's bool is an int, GGUF's is not
        finite = not isinstance(value, float) or math.isfinite(value)
        if type(value) is not kind or not finite:
            found = "is missing" if value is None else f"is {str(value)[:60]!r}"
            raise ModelFolderError(
                f"{self.path}: {key} {found}, but must be a value of type {kind.__name__}; convert"
                " the model again"
            )
        return value

    def strings(self, key: str) -> list[str]:
        """An array of strings of the metadata. Raises ModelFolderError for anything else."""
        value = self.metadata.get(key)
        if not isinstance(value, list):
            raise ModelFolderError(
                f"{self.path}: {key} must be an array of strings, but is"
                f" {'missing' if value is None else type(value).__name__}; convert the model again"
            )
        return value

    def array(self, key: str, count: int) -> npt.NDArray[np.generic] | None:
        """An array of `count` numbers of the metadata, or None. Raises ModelFolderError for
        anything else.
        """
        value = self.metadata.get(key)
        if value is None or (isinstance(value, np.ndarray) and len(value) == count):
            return value
        raise ModelFolderError(
            f"{self.path}: {key} must be an array of {count} numbers; convert the model again"
        )


class _Cursor:
    """A place in the file, moved by reading; it never passes the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 0
        self.strings_left = MAX_STRINGS

    def check(self, holds: bool, otherwise: str, at: int | None = None) -> None:
        if not holds:
            raise ModelFolderError(
                f"{self.path} is not a whole GGUF file: {otherwise} (at byte"
                f" {self.at if at is None else at} of {self.size}); copy or download it again"
            )

    def skip(self, count: int) -> int:
        """Move past `count` bytes and give where they began."""
        start = self.at
        self.check(count <= self.size - start, f"{count} more bytes are announced than it has")
        self.at = start + count
        return start

    def whole(self, width: int) -> int:
        start = self.skip(width)
        return int.from_bytes(self.data[start : start + width], "little")

    def string(self, limit: int) -> str:
        length = self.whole(8)
        self.check(length <= limit, f"a text of {length} bytes, where {limit} may stand")
        return self.text(self.skip(length), length)

    def text(self, start: int, length: int) -> str:
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            self.check(False, "a text is not UTF-8", at=start)
            raise

    def value(self) -> Value:
        kind = self.whole(4)
        if kind == _STRING:
            return self.string(MAX_TEXT_BYTES)
        if kind == _ARRAY:
            return self.array()
        number = self.numbers(kind, 1)[0]
        return bool(number) if kind == _BOOL else _plain(number)

    def array(self) -> list[str] | npt.NDArray[np.generic]:
        kind, count = self.whole(4), self.whole(8)
        if kind != _STRING:
            return self.numbers(kind, count)
        self.check(
            count <= min(self.strings_left, (self.size - self.at) // _LENGTH.size),
            f"an array of {count} strings",
        )
        self.strings_left -= count
        found = []
        at, room, length_at = self.at, self.size - _LENGTH.size, _LENGTH.unpack_from
        for _ in range(count):  # the loop that takes the time
            (length,) = length_at(self.data, at) if at <= room else (self.size,)
            self.at = at + _LENGTH.size
            start = self.skip(length)
            found.append(self.text(start, length))
            at = self.at
        return found

    def numbers(self, kind: int, count: int) -> npt.NDArray[np.generic]:
        self.check(kind in _NUMBERS, f"a value or an array of the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        start = self.skip(count * dtype.itemsize)
        if count == 0:
            return np.empty(0, dtype)
        found = np.frombuffer(self.data, dtype, count, start)
        self.check(kind != _BOOL or bool((found <= 1).all()), "a truth value beyond 0 and 1", start)
        return found


def _plain(number: np.generic) -> int | float:
    """A number of Python; a float32 becomes the shortest decimal that gives it, 1e-05 and not
    9.999999747378752e-06.
    """
    found = float(str(number)) if isinstance(number, np.float32) else number.item()
    assert isinstance(found, int | float)
    return found


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.string(MAX_NAME_BYTES)
        cursor.check(key not in found, f"the key {key[:60]!r} stands twice")
        found[key] = cursor.value()
    return found


def _read_table(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    cursor.check(
        0 < alignment <= 1 << 20 and alignment & (alignment - 1) == 0,
        f"general.alignment is {alignment}, no power of two below a million",
    )
    found: dict[str, GGUFTensor] = {}
    for _ in range(count):
        tensor = _read_row(cursor, alignment)
        cursor.check(tensor.name not in found, f"the tensor {tensor.name[:60]!r} stands twice")
        found[tensor.name] = tensor
    base = -(-cursor.at // alignment) * alignment
    placed = {
        name: GGUFTensor(name, row.shape, row.type, base + row.start, row.num_bytes)
        for name, row in found.items()
    }
    end = base
    for row in sorted(placed.values(), key=lambda row: row.start):
        cursor.check(row.start >= end, f"the tensor {row.name!r} overlaps another", at=row.start)
        end = row.start + row.num_bytes
        cursor.check(end <= cursor.size, f"the tensor {row.name!r} ends at byte {end}")
    return placed


def _read_row(cursor: _Cursor, alignment: int) -> GGUFTensor:
    """A row of the table whose `start` counts from the beginning of the values."""
    name = cursor.string(MAX_NAME_BYTES)
    dimensions = cursor.whole(4)
    cursor.check(
        1 <= dimensions <= MAX_DIMENSIONS, f"the tensor {name[:60]!r} has {dimensions} dimensions"
    )
    shape = tuple(cursor.whole(8) for _ in range(dimensions))[::-1]
    number, start = cursor.whole(4), cursor.whole(8)
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        cursor.check(False, f"the tensor {name[:60]!r} has the unknown type {number}")
        raise
    values, size = GGML_QUANT_SIZES[kind]
    cursor.check(
        min(shape) > 0 and shape[-1] % values == 0,
        f"the tensor {name[:60]!r} has shape {list(shape)}, but a row of {kind.name} is a multiple"
        f" of {values}",
    )
    cursor.check(
        start % alignment == 0,
        f"the tensor {name[:60]!r} does not begin at a multiple of {alignment}",
    )
    return GGUFTensor(name, shape, kind, start, math.prod(shape) // values * size)
