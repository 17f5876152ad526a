"""A quantized model as a Hugging Face folder in the layout of compressed-tensors, `pack-quantized`,
which transformers, vLLM and Puna read.

Of a matrix W [O, I] on a grid of b bits stand there: weight_packed, int32 [O, ceil(I b / 32)] with
code + 2^(b-1) of input i in the bits from b (i mod 32/b) on of word i // (32/b), weight_scale
[O, G] and weight_shape. config.json names grids and modules under quantization_config.

Source: compressed-tensors 0.20, compressors/pack_quantized and quantization/quant_config.py.
"""

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Int8
from torch import Tensor
from torch.nn import functional as F

from puna.durable import write_json
from puna.model.adapters import KEPT
from puna.model.family_tensors import keeps_its_config
from puna.model.folder_files import WEIGHTS, read_json_object
from puna.model.huggingface import to_huggingface
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors, write_tensors
from puna.quantization.calibration import EMBEDDING, HEAD, linear_names
from puna.quantization.grid import Grid, QuantizedWeight

FORMAT = "pack-quantized"


def write_packed(
    folder: Path,
    model: Transformer,
    weights: Mapping[str, QuantizedWeight],
    *,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    provenance: Mapping[str, Any],
) -> None:
    """Write config.json, the weights and puna.json into an existing folder; the tokenizer's files
    are their owner's to add.

    weights: by module of the model, whose other parameters are written in `dtype`. config: the
    config.json of the model. provenance: for puna.json.
    """
    quantized = {f"{_prefix(name)}{name}": made for name, made in weights.items()}
    tensors: dict[str, Tensor] = {}
    for name, parameter in named_tensors(model):
        module = name.removesuffix(".weight")
        if module in quantized:
            tensors |= _packed_tensors(module, quantized[module])
        else:
            tensors[name] = parameter.detach().to(dtype)
    write_tensors(folder / WEIGHTS, tensors)
    spelling = str(dtype).removeprefix("torch.")
    written = {
        **config,
        # transformers has two names for it, of which a folder may have the newer one alone
        **{key: spelling for key in ("torch_dtype", "dtype") if key in config},
        "quantization_config": quantization_config(
            {name: made.grid for name, made in weights.items()},
            [name for name in _linear_modules(model) if name not in weights],
        ),
    }
    if "dtype" not in config:
        written["torch_dtype"] = spelling
    write_json(folder / "config.json", written)
    write_json(folder / "puna.json", {"model": model.config.model_dump(mode="json"), **provenance})


def _prefix(name: str) -> str:
    return "" if name == HEAD else "model."


def _packed_tensors(module: str, made: QuantizedWeight) -> dict[str, Tensor]:
    return {
        f"{module}.weight_packed": pack(made.codes, made.grid.bits),
        f"{module}.weight_scale": made.scales,
        f"{module}.weight_shape": torch.tensor(made.codes.shape),
    }


def pack(codes: Int8[Tensor, "O I"], bits: int) -> Int[Tensor, "O words"]:
    """The codes plus 2^(bits-1), lowest bits first, in int32; a row is filled up with zeros."""
    per_word = 32 // bits
    places = F.pad(codes.int() + (1 << (bits - 1)), (0, -codes.shape[1] % per_word))
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    words = places.view(len(codes), -1, per_word) << shifts
    # the bits of the places are apart, so their sum is their union
    return words.sum(-1, dtype=torch.int32)


def _linear_modules(model: Transformer) -> list[str]:
    """The linear layers as transformers counts them: an output layer that is the embedding is one
    of them.
    """
    return [*linear_names(model), HEAD]


def quantization_config(grids: Mapping[str, Grid], kept: Sequence[str]) -> dict[str, Any]:
    """The entry of config.json that says the layout. grids: by module. kept: linear layers that
    are not quantized.

    A module of its own name comes before the class "Linear", which is the commonest grid's.
    """
    linear = Counter(grid for name, grid in grids.items() if name not in (EMBEDDING, HEAD))
    commonest = max(linear, key=linear.__getitem__, default=None)
    targets: dict[Grid, list[str]] = {}
    for name, grid in grids.items():
        named = name in (EMBEDDING, HEAD) or grid != commonest
        target = f"re:.*{re.escape(name)}$" if named else "Linear"
        if target not in targets.setdefault(grid, []):
            targets[grid].append(target)
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": names,
                "weights": _written_grid(grid),
                "input_activations": None,
                "output_activations": None,
                "format": FORMAT,
            }
            for number, (grid, names) in enumerate(targets.items())
        },
        "ignore": [f"{_prefix(name)}{name}" for name in kept],
        "kv_cache_scheme": None,
    }


def _written_grid(grid: Grid) -> dict[str, Any]:
    return {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if grid.group else "channel",
        "group_size": grid.group or None,
        "dynamic": False,
    }


def config_of(source: Path, model: Transformer, special: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model folder, or of a model of another form the one that Puna writes.
    special: the ids that generation begins with and ends at, for the latter.
    """
    if source.is_dir():
        values = read_json_object(source, "config.json")
        if keeps_its_config(values):
            return values
    return to_huggingface(model.config) | dict(special)


def copy_others(source: Path, folder: Path) -> None:
    """Copy tokenizer, generation defaults and licences of a model folder."""
    for pattern in KEPT:
        for kept in filter(Path.is_file, source.glob(pattern)):
            shutil.copyfile(kept, folder / kept.name)
