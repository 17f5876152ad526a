"""The values of a GGUF file's tensors: blocks of few bits to float32, and rows of q and k from
rotary neighbours to rotary halves and back.

llama.cpp turns neighbouring entries of a head (as Meta's weights do) in its architecture `llama`,
where Puna and Hugging Face turn entry i with entry i + C/2, so the rows of q and k are in another
order. The formulas of the blocks are the `gguf` package's, in numpy: about 100 MB of float32 a
second.

Source: llama.cpp's converter (permute) and ggml's ggml-common.h (blocks).
"""

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from puna.errors import ModelFolderError
from puna.formats.gguf_file import GGUFFile, GGUFTensor

_VALUES_AT_ONCE = 1 << 22  # values of a step, so that its temporaries stay small
_PLAIN = {
    GGMLQuantizationType.F32: ("<f4", torch.float32),
    GGMLQuantizationType.F16: ("<f2", torch.float16),
    GGMLQuantizationType.BF16: ("<i2", torch.bfloat16),
}


def read_values(file: GGUFFile, tensor: GGUFTensor) -> Tensor:
    """The tensor on the CPU: F32, F16 and BF16 as they stand, all others as float32.

    Raises ModelFolderError for a type whose blocks are not known.
    """
    if tensor.type in _PLAIN:
        spelling, dtype = _PLAIN[tensor.type]
        values = torch.from_numpy(file.raw(tensor).reshape(-1).view(spelling).copy())
        return values.view(dtype).reshape(tensor.shape)
    step = max(_VALUES_AT_ONCE // tensor.shape[-1], 1)
    out = np.empty((int(np.prod(tensor.shape[:-1])), tensor.shape[-1]), np.float32)
    try:
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            with np.errstate(over="ignore", invalid="ignore"):
                out[rows] = quants.dequantize(file.raw(tensor, rows), tensor.type)
    except NotImplementedError as error:
        raise ModelFolderError(
            f"{file.path}: the tensor {tensor.name} is of type {tensor.type.name}, whose values are"
            " not known here; convert the file to F16 with llama.cpp's llama-quantize"
        ) from error
    return torch.from_numpy(out).reshape(tensor.shape)


def to_halves(rows: Tensor, heads: int) -> Tensor:
    """Rows of q or k [H C, ...] from neighbours (2 i, 2 i + 1) to halves (i, i + C/2)."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def to_neighbours(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `to_halves`."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def heads_of(name: str, num_heads: int, num_kv_heads: int) -> int | None:
    """The heads of a GGUF tensor whose rows are turned: H for q, K for k, None for all others."""
    part = name.split(".")[-2]
    return {"attn_q": num_heads, "attn_k": num_kv_heads}.get(part)
