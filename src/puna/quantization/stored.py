"""The quantized matrices of a model as they are stored: codes and scales for kernels that multiply
with them, read with numpy alone.

    W_oi = codes_oi scales_og        with g the group of input i

Read are folders in compressed-tensors' layout `pack-quantized`, symmetric with 4 or 8 bits and
scales of float16 or of one float32 a row, which is what `puna quantize` writes, and GGUF files with
matrices in Q8_0 or Q4_0. Matrices in other forms are left out; whoever needs them reads whole
weights (model/weights.py). A matrix takes memory when it is asked for.

Source: compressed-tensors, compressors/pack_quantized.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from puna.errors import ModelFolderError
from puna.formats.model_path import find_model, is_gguf
from puna.model.folder_files import read_json_object, weight_files

_PARTS = ("weight_packed", "weight_scale", "weight_shape")


@dataclass(frozen=True)
class QuantizedMatrix:
    """codes: int8 [O, I], of 4 bits -8 to 7, of 8 bits -128 to 127. scales: float16 [O, G] for
    groups of `group` inputs; float32 [O, 1] with group 0, one for the whole row.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16] | npt.NDArray[np.float32]
    bits: Literal[4, 8]
    group: int

    def dequantize(self) -> npt.NDArray[np.float32]:
        """code times scale [O, I]."""
        size = self.codes.shape[1] // self.scales.shape[1]
        return self.codes.astype(np.float32) * self.scales.astype(np.float32).repeat(size, 1)


class StoredMatrices(Mapping[str, QuantizedMatrix]):
    """The matrices by the names of their weights in LlamaForCausalLM, such as
    model.layers.0.mlp.up_proj.weight; each is read when it is asked for, and not kept.
    """

    def __init__(self, readers: Mapping[str, Callable[[], QuantizedMatrix]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> QuantizedMatrix:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def quantized_matrices(path: Path | str) -> StoredMatrices:
    """The quantized matrices of the model at `path`, a model folder or a GGUF file; empty where it
    has none in these forms.

    Rows of q and k are in the order that `puna.nn.rope.rotate` takes. Raises ModelFolderError for
    damaged files here, and for a matrix that contradicts itself when it is read.
    """
    path = find_model(path)
    if is_gguf(path):
        from puna.quantization.gguf_blocks import gguf_matrices  # brings torch

        return StoredMatrices(gguf_matrices(path))
    return StoredMatrices(_of_folder(path))


def is_quantized(path: Path) -> bool:
    """True for a model that holds quantized matrices, in these forms or others."""
    if is_gguf(path):
        from puna.quantization.gguf_blocks import has_blocks  # brings torch

        return has_blocks(path)
    return bool(read_json_object(path, "config.json").get("quantization_config"))


def _of_folder(folder: Path) -> dict[str, Callable[[], QuantizedMatrix]]:
    settings = read_json_object(folder, "config.json").get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "compressed-tensors":
        return {}
    found: dict[str, _Place] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    view = file.get_slice(name)
                    found[name] = _Place(path, view.get_dtype(), tuple(view.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"{path} is not a whole safetensors file: {error}") from error
    readers: dict[str, Callable[[], QuantizedMatrix]] = {}
    for name in found:
        module, _, part = name.rpartition(".")
        parts = {part: found.get(f"{module}.{part}") for part in _PARTS}
        here = {part: place for part, place in parts.items() if place is not None}
        others = {f"{module}.weight_zero_point", f"{module}.weight_g_idx"} & found.keys()
        if part == "weight_packed" and len(here) == len(_PARTS) and not others:
            scale = here["weight_scale"]
            if scale.dtype == "F16" or (scale.dtype == "F32" and scale.shape[1:] == (1,)):
                readers[f"{module}.weight"] = partial(_read, module, here)
    return readers


class _Place(NamedTuple):
    """A tensor in a file; dtype: as safetensors calls it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


def _read(module: str, places: Mapping[str, _Place]) -> QuantizedMatrix:
    def values(part: str) -> npt.NDArray[Any]:
        with safe_open(places[part].path, framework="numpy") as file:
            found: npt.NDArray[Any] = file.get_tensor(f"{module}.{part}")
            return found

    words, scales, stated = (places[part] for part in _PARTS)
    shape = values("weight_shape").tolist() if stated.shape == (2,) else []
    fits = (
        words.dtype in ("I32", "U32")
        and stated.dtype in ("I32", "I64")
        and len(shape) == len(words.shape) == len(scales.shape) == 2
        and words.shape[0] == scales.shape[0] == shape[0] > 0
        and shape[1] > 0 < scales.shape[1]
        and shape[1] % scales.shape[1] == 0
    )
    fitting = [b for b in (4, 8) if fits and -(-shape[1] * b // 32) == words.shape[1]]
    if len(fitting) != 1:
        raise ModelFolderError(
            f"{module} is stored quantized, but its parts contradict each other: shape {shape},"
            f" {words.dtype} words {list(words.shape)}, {scales.dtype} scales"
            f" {list(scales.shape)}; copy the folder again"
        )
    inputs, groups = shape[1], scales.shape[1]
    stored = values("weight_scale")
    return QuantizedMatrix(
        unpack(values("weight_packed"), fitting[0], inputs),
        stored.astype(np.float32) if groups == 1 else stored.astype(np.float16),
        4 if fitting[0] == 4 else 8,
        0 if groups == 1 else inputs // groups,
    )


def unpack(words: npt.NDArray[Any], bits: int, inputs: int) -> npt.NDArray[np.int8]:
    """The codes [O, inputs] of words [O, ceil(inputs bits / 32)], lowest bits first."""
    # little endian: the bytes of a word stand in the order of its places
    places = np.ascontiguousarray(words).view(np.uint8)
    if bits == 4:
        places = np.stack([places & 15, places >> 4], axis=-1).reshape(len(words), -1)
    half = 1 << (bits - 1)
    return np.ascontiguousarray((places[:, :inputs].astype(np.int16) - half).astype(np.int8))
