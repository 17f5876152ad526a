"""The tensors of a quantized model folder as weights in full width, made when they are read.

The names of the tensors decide, and the quantization_config says what they do not. A folder whose
layout is none of these keeps its tensors, which then fit no model and are refused by name: nothing
quantized is ever read as if it were plain. What was lost in quantizing is not brought back.
"""

from collections.abc import Mapping
from typing import Any

from puna.model.quantized_folder.four_bit_codes import FOUR_BIT
from puna.model.quantized_folder.layout import Layout, QuantizedModule
from puna.model.quantized_folder.packed_integers import MLX, PACKED, ROWS_FIRST
from puna.model.quantized_folder.scaled_weights import LLM_INT8, SCALED
from puna.model.stored_tensors import StoredTensor

LAYOUTS: tuple[Layout, ...] = (*FOUR_BIT, LLM_INT8, *SCALED, ROWS_FIRST, MLX, PACKED)
# Scales of the keys and values of a cache in eight bits
CACHE_SCALES = (".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_output_scale")
# torch_dtype or dtype of config.json, with or without the name of the library before it
DTYPES = {"bfloat16": "BF16", "float16": "F16", "half": "F16"}


def dequantized(
    values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """The tensors with a plain weight for every module that is stored in one of the layouts, in the
    dtype that config.json names, else float32. values: of config.json.

    Raises ModelFolderError for a module whose parts contradict each other.
    """
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        base, part = _parted(name)
        modules.setdefault(base, {})[part] = tensor
    settings, dtype = _settings(values), _dtype(values)
    plain = dict(stored)
    for base, parts in modules.items():
        layout = next((layout for layout in LAYOUTS if layout.needs <= parts.keys()), None)
        if layout is None:
            continue
        module = QuantizedModule(base, parts, _of_module(settings, base), dtype)
        weight = layout.restore(module)
        for part in parts.keys() & layout.takes:
            del plain[f"{base}.{part}"]
        plain[f"{base}.weight"] = weight
    if plain.keys() == stored.keys():
        return plain
    return {name: tensor for name, tensor in plain.items() if not name.endswith(CACHE_SCALES)}


def _parted(name: str) -> tuple[str, str]:
    """A tensor's module and what it is there: bitsandbytes sets its parts behind .weight."""
    base, found, part = name.partition(".weight.")
    if found:
        return base, f"weight.{part}"
    base, _, part = name.rpartition(".")
    return base, part


def _settings(values: Mapping[str, Any]) -> Mapping[str, Any]:
    # MLX says quantization, all others quantization_config
    for key in ("quantization_config", "quantization"):
        if isinstance(values.get(key), dict):
            settings: Mapping[str, Any] = values[key]
            return settings
    return {}


def _of_module(settings: Mapping[str, Any], base: str) -> Mapping[str, Any]:
    """The settings with those of a single module over them, as MLX has them."""
    own = settings.get(base)
    return {**settings, **own} if isinstance(own, dict) else settings


def _dtype(values: Mapping[str, Any]) -> str:
    said = values.get("dtype") or values.get("torch_dtype")
    return DTYPES.get(str(said).removeprefix("torch."), "F32")
