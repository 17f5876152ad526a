"""The quantized matrices of a model as they are stored: codes and scales for kernels that multiply
with them, read with numpy alone.

    W_oi = codes_oi scales_og        with g the group of input i

Read are folders in compressed-tensors' layout `pack-quantized`, symmetric with 4 or 8 bits, which
is what `puna quantize` writes, and GGUF files whose matrices are Q8_0 or Q4_0. Matrices in other
forms are left out; whoever needs them reads whole weights (model/weights.py). A matrix takes memory
when it is asked for.

Source: compressed-tensors, compressors/pack_quantized.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from puna.errors import ModelFolderError
from puna.formats.model_path import find_model, is_gguf
from puna.model.folder_files import read_json_object, weight_files

_PARTS = ("weight_packed", "weight_scale", "weight_shape")
_SCALES = ("F16", "BF16", "F32")


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


def _of_folder(folder: Path) -> dict[str, Callable[[], QuantizedMatrix]]:
    settings = read_json_object(folder, "config.json").get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "compressed-tensors":
        return {}
    places: dict[str, Path] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                places |= dict.fromkeys(file.keys(), path)
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"{path} is not a whole safetensors file: {error}") from error
    modules = [
        name.removesuffix(".weight_packed") for name in places if name.endswith(".weight_packed")
    ]
    return {
        f"{module}.weight": partial(
            _read, module, {part: places[f"{module}.{part}"] for part in _PARTS}
        )
        for module in modules
        if all(f"{module}.{part}" in places for part in _PARTS)
        # zero points and orders of inputs are read as whole weights only
        and not {f"{module}.weight_zero_point", f"{module}.weight_g_idx"} & places.keys()
    }


def _read(module: str, places: Mapping[str, Path]) -> QuantizedMatrix:
    def part(name: str) -> tuple[npt.NDArray[Any], str]:
        with safe_open(places[name], framework="numpy") as file:
            full = f"{module}.{name}"
            return file.get_tensor(full), file.get_slice(full).get_dtype()

    words, kind = part("weight_packed")
    shape = part("weight_shape")[0].reshape(-1).tolist()
    scales, scale_kind = part("weight_scale")
    outputs, inputs = shape if len(shape) == 2 else (0, 0)
    bits = next(
        (b for b in (4, 8) if words.ndim == 2 and -(-inputs * b // 32) == words.shape[1]), None
    )
    groups = scales.shape[1] if scales.ndim == 2 else 0
    fits = (
        bits is not None
        and kind in ("I32", "U32")
        and scale_kind in _SCALES
        and len(words) == len(scales) == outputs > 0
        and groups > 0
        and inputs % groups == 0
    )
    if not fits or bits is None:
        raise ModelFolderError(
            f"{module} is stored quantized, but its parts contradict each other: shape {shape},"
            f" {kind} words {list(words.shape)}, {scale_kind} scales {list(scales.shape)}; copy the"
            " folder again"
        )
    group = 0 if groups == 1 else inputs // groups
    return QuantizedMatrix(
        unpack(words, bits, inputs),
        _as_stored(scales, group),
        4 if bits == 4 else 8,
        group,
    )


def unpack(words: npt.NDArray[Any], bits: int, inputs: int) -> npt.NDArray[np.int8]:
    """The codes [O, inputs] of words [O, ceil(inputs bits / 32)], lowest bits first."""
    # little endian: the bytes of a word stand in the order of its places
    places = np.ascontiguousarray(words).view(np.uint8)
    if bits == 4:
        places = np.stack([places & 15, places >> 4], axis=-1).reshape(len(words), -1)
    half = 1 << (bits - 1)
    return np.ascontiguousarray((places[:, :inputs].astype(np.int16) - half).astype(np.int8))


def _as_stored(
    scales: npt.NDArray[Any], group: int
) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
    return scales.astype(np.float16) if group else scales.astype(np.float32)
