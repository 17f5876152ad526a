"""bitsandbytes' four bits: NF4 and FP4, with the scales of groups quantized once more or not.

    w_n = map[code_n] a_(n // blocksize)

The codes of a flattened matrix, two a byte, the first in the high half; the map of 16 levels is
stored beside them. With double quantization the scales a are themselves map'[code'] a' + offset, in
groups of nested_blocksize. Shape, sizes and offset are JSON in a tensor of bytes.

Source: Dettmers et al. 2023, QLoRA, section 3, and bitsandbytes' QuantState.as_dict.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

from puna.model.quantized_folder.layout import Layout, QuantizedModule
from puna.model.stored_tensors import StoredTensor

STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
ENTRIES = 1 << 40


def _restore(module: QuantizedModule, state_name: str) -> StoredTensor:
    shape, size, nested = _state(module, state_name)
    entries = math.prod(shape)
    blocks = -(-entries // size)
    packed, levels, largest = (
        module.parts[name] for name in ("weight", "weight.quant_map", "weight.absmax")
    )
    if math.prod(packed.shape) != -(-entries // 2) or packed.dtype != "U8":
        raise module.error(
            f"its weight holds {list(packed.shape)} of {packed.dtype}, not the"
            f" {-(-entries // 2)} bytes of {list(shape)} codes"
        )
    module.shape("weight.quant_map", 16)
    module.shape("weight.absmax", blocks)
    if nested is not None:
        module.shape("weight.nested_absmax", -(-blocks // nested["nested_blocksize"]))
        module.shape("weight.nested_quant_map", 256)

    def scales() -> Tensor:
        stored = largest.read()
        if nested is None:
            return stored.float()
        outer = module.parts["weight.nested_absmax"].read().float()
        map_ = module.parts["weight.nested_quant_map"].read().float()
        groups = outer.repeat_interleave(nested["nested_blocksize"])[:blocks]
        offset: float = nested["nested_offset"]
        return map_[stored.long()] * groups + offset

    def values() -> Tensor:
        bytes_ = packed.read().flatten()
        codes = torch.stack((bytes_ >> 4, bytes_ & 15), dim=-1).flatten()[:entries]
        out = levels.read().float()[codes.long()]
        return out * scales().repeat_interleave(size)[:entries]

    return module.weight(shape, values)


def _state(
    module: QuantizedModule, name: str
) -> tuple[tuple[int, ...], int, dict[str, Any] | None]:
    """Shape of the weight, entries that share a scale, and the numbers of the double quantization.
    Raises ModelFolderError.
    """
    part = module.parts[name]
    if part.dtype != "U8" or math.prod(part.shape) > 1 << 16:
        raise module.error(f"{name} holds no short text")
    try:
        state = json.loads(bytes(part.read().flatten().tolist()).decode("utf-8"))
        shape, size = tuple(state["shape"]), state["blocksize"]
        numbers = (*shape, size)
        nested = None
        if "weight.nested_absmax" in module.parts:
            nested = {key: state[key] for key in ("nested_blocksize", "nested_offset")}
            numbers = (*numbers, nested["nested_blocksize"])
            nested["nested_offset"] = float(nested["nested_offset"])
        whole = all(type(number) is int and 0 < number < ENTRIES for number in numbers)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise module.error(f"{name} is no state of bitsandbytes ({error!r})") from error
    if not whole or not shape or math.prod(shape) > ENTRIES:
        raise module.error(f"{name} has impossible sizes: shape {list(shape)}, blocksize {size}")
    return shape, size, nested


def _layout(state: str) -> Layout:
    needs = frozenset({"weight", "weight.absmax", "weight.quant_map", state})
    nested = {"weight.nested_absmax", "weight.nested_quant_map"}
    return Layout(needs, needs | nested, lambda module: _restore(module, state))


FOUR_BIT = tuple(_layout(state) for state in STATES)
