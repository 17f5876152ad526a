"""The types of a GGUF file's weights by the name of the whole: which tensor is kept in how many
bits, and its bytes.

Norms, biases and divisors stay float32, as llama.cpp wants them. Where rows do not fill whole
blocks (of 32 values, or 256 for K types) a tensor takes the next larger type that fits, as
llama.cpp's quantizer has it: Q4_K becomes Q5_0, Q6_K Q8_0, and what no block fits float16.

Source: llama.cpp's src/llama-quant.cpp for the mixtures, ggml's ggml.h for `general.file_type`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from torch import Tensor

from puna.errors import ModelFolderError
from puna.formats.gguf_k_quants import quantize_q4_k, quantize_q6_k

GGUFType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]
GGUF_TYPES: tuple[GGUFType, ...] = get_args(GGUFType)
_Type = GGMLQuantizationType


@dataclass(frozen=True)
class TypeMixture:
    """The types that a name stands for."""

    file_type: LlamaFileType
    matrices: GGMLQuantizationType
    output: GGMLQuantizationType
    """Of the output layer, and of embeddings that are it too."""
    better: GGMLQuantizationType
    """Of v and the second feed-forward matrix in half of the layers."""

    def of(self, name: str, layers: int, tied: bool) -> GGMLQuantizationType:
        """The type of a matrix by its GGUF name, before its rows are looked at."""
        if name == "output.weight" or (tied and name == "token_embd.weight"):
            return self.output
        if name.split(".")[-2] in ("attn_v", "ffn_down"):
            layer = int(name.split(".")[1])
            # the first and the last eighth, and every third between
            if layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2:
                return self.better
        return self.matrices


def _plain(file_type: LlamaFileType, kind: GGMLQuantizationType) -> TypeMixture:
    return TypeMixture(file_type, kind, kind, kind)


TYPE_MIXTURES: Mapping[GGUFType, TypeMixture] = MappingProxyType(
    {
        "f32": _plain(LlamaFileType.ALL_F32, _Type.F32),
        "f16": _plain(LlamaFileType.MOSTLY_F16, _Type.F16),
        "bf16": _plain(LlamaFileType.MOSTLY_BF16, _Type.BF16),
        "q8_0": _plain(LlamaFileType.MOSTLY_Q8_0, _Type.Q8_0),
        "q4_0": TypeMixture(LlamaFileType.MOSTLY_Q4_0, _Type.Q4_0, _Type.Q8_0, _Type.Q4_0),
        "q4_k_m": TypeMixture(LlamaFileType.MOSTLY_Q4_K_M, _Type.Q4_K, _Type.Q6_K, _Type.Q6_K),
    }
)
_NEXT = {
    _Type.Q4_K: _Type.Q5_0,
    _Type.Q6_K: _Type.Q8_0,
    _Type.Q5_0: _Type.F16,
    _Type.Q8_0: _Type.F16,
    _Type.Q4_0: _Type.F16,
}


def type_of(
    name: str, shape: tuple[int, ...], mixture: TypeMixture, layers: int, tied: bool
) -> _Type:
    """The type in which a tensor is written."""
    if len(shape) == 1:
        return _Type.F32
    kind = mixture.of(name, layers, tied)
    while shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = _NEXT[kind]
    return kind


def num_bytes(shape: tuple[int, ...], kind: _Type) -> int:
    """Bytes of a tensor whose rows fill whole blocks."""
    values, size = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // values * size


def in_type(name: str, tensor: Tensor, kind: _Type) -> npt.NDArray[np.generic]:
    """A matrix or vector in its type, as the writer takes it. Raises ModelFolderError for values
    that are no numbers, or beyond float16 where it has to hold them.
    """
    values = tensor.detach().cpu().contiguous()
    if kind is _Type.BF16 and values.dtype == torch.bfloat16:
        return values.view(torch.uint8).numpy()
    floats: npt.NDArray[np.float32] = values.float().numpy()
    largest = float(np.abs(floats).max())
    # a block's scale is a float16 too, of at least an eighth of the largest value
    limit = 65504.0 if kind is _Type.F16 else 3e5 if kind not in (_Type.F32, _Type.BF16) else None
    if not np.isfinite(largest) or (limit is not None and largest > limit):
        raise ModelFolderError(
            f"{name} holds the value {largest:g}, which {kind.name} does not; write f32"
        )
    if kind is _Type.Q4_K:
        return quantize_q4_k(floats)
    if kind is _Type.Q6_K:
        return quantize_q6_k(floats)
    found: npt.NDArray[np.generic] = quants.quantize(floats, kind)
    return found
