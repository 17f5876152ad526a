"""The blocks of a GGUF file that are codes times a scale, Q8_0 and Q4_0, as codes and scales.

    W_oi = code_oi d_og        groups of 32 inputs, d float16

Source: ggml's ggml-common.h: block_q8_0 is d and 32 bytes; block_q4_0 is d and 16 bytes, of which
byte j holds value j in its low half and value j + 16 in its high half, both plus 8.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from puna.formats.gguf_config import architecture_of, our_name, read_shape
from puna.formats.gguf_file import GGUFFile, GGUFTensor
from puna.formats.gguf_tensors import heads_of
from puna.quantization.stored import QuantizedMatrix

BLOCK = 32
Kind = TypeVar("Kind", bound=np.generic)


def gguf_matrices(path: Path) -> dict[str, Callable[[], QuantizedMatrix]]:
    """Readers of the matrices in Q8_0 and Q4_0 by the names of their weights in LlamaForCausalLM.
    Raises ModelFolderError as `GGUFFile` and `read_shape` do.
    """
    file = GGUFFile(path)
    config, interleaved = read_shape(file), architecture_of(file).interleaved
    kinds = (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0)
    found: dict[str, Callable[[], QuantizedMatrix]] = {}
    for name, tensor in file.tensors.items():
        ours = our_name(name)
        if ours is None or tensor.type not in kinds or len(tensor.shape) != 2:
            continue
        heads = heads_of(name, config.num_heads, config.num_kv_heads) if interleaved else None
        found[ours] = partial(_read, file, tensor, heads)
    return found


def has_blocks(path: Path) -> bool:
    """True for a file with matrices in blocks of any kind."""
    floats = ("F32", "F16", "BF16")
    return any(tensor.type.name not in floats for tensor in GGUFFile(path).tensors.values())


def _read(file: GGUFFile, tensor: GGUFTensor, heads: int | None) -> QuantizedMatrix:
    blocks = file.raw(tensor).reshape(tensor.shape[0], tensor.shape[1] // BLOCK, -1)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    values = blocks[..., 2:]
    four = tensor.type == GGMLQuantizationType.Q4_0
    if four:
        halves = np.concatenate([values & 15, values >> 4], axis=-1)
        codes = halves.astype(np.int8) - np.int8(8)
    else:
        codes = values.view(np.int8)
    rows = _halves(codes.reshape(tensor.shape), heads)
    return QuantizedMatrix(rows, _halves(scales, heads), 4 if four else 8, BLOCK)


def _halves(rows: npt.NDArray[Kind], heads: int | None) -> npt.NDArray[Kind]:
    """Rows of q or k from rotary neighbours to halves, as formats/gguf_tensors.py / to_halves does
    with tensors; a copy of all others.
    """
    if heads is None:
        return rows.copy()
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
