"""A model folder is a Hugging Face model folder: config.json, safetensors, generation_config.json,
and puna.json for provenance.

What a family of transformers can express opens in transformers, vLLM and lm-evaluation-harness
with no export step; a model with other parts is written under a type of its own
(model/huggingface.py). What is read is either kind, in safetensors; pickles are never opened.
Reading and writing stream one tensor at a time beside the model itself.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from puna.durable import write_json
from puna.errors import ModelFolderError
from puna.model.config import ModelConfig
from puna.model.family_tensors import as_llama
from puna.model.folder_files import INDEX, WEIGHTS, model_folder, read_json_object, weight_files
from puna.model.foreign_layouts import suspicion
from puna.model.huggingface import from_huggingface, to_huggingface
from puna.model.quantized_folder.dequantize import dequantized
from puna.model.stored_tensors import FLOATS, StoredTensor, stored_tensors
from puna.model.transformer import Transformer, build_transformer, with_memory
from puna.nn.quantized import Linear4bit

# beyond this the weights are split, with an index, as transformers does
SHARD_BYTES = 5_000_000_000
SHOWN = 10
"""Problems of a folder that one message names at most."""


def write_model(
    folder: Path,
    model: Transformer,
    *,
    bos_id: int | None = None,
    eos_ids: tuple[int, ...] = (),
    provenance: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the model's files into an existing folder; the tokenizer's files are their owner's to
    add.

    bos_id, eos_ids: what generation starts with and stops at. provenance: anything worth
    remembering, kept in puna.json. Not atomic by itself: give it the folder of
    `durable.new_folder`. Raises ModelFolderError for a model with layers of four bits.
    """
    if any(isinstance(module, Linear4bit) for module in model.modules()):
        raise ModelFolderError(
            "a model with layers of four bits cannot be written: write the one that it was made"
            " from"
        )
    special: dict[str, Any] = {
        "bos_token_id": bos_id,
        "eos_token_id": list(eos_ids) if len(eos_ids) > 1 else next(iter(eos_ids), None),
    }
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    write_json(
        folder / "config.json", to_huggingface(model.config) | special | {"torch_dtype": dtype}
    )
    write_json(folder / "generation_config.json", special)
    write_json(
        folder / "puna.json", {"model": model.config.model_dump(mode="json"), **(provenance or {})}
    )
    # Views of the parameters, no copies; a tied output layer is no parameter of its own
    shards = list(_shards({name: p.detach() for name, p in named_tensors(model)}, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = (
            WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        write_tensors(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(p.nbytes for _, p in named_tensors(model))
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one safetensors file. Raises ModelFolderError where the library cannot, as on a full
    disk.
    """
    try:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
            path,
            metadata={"format": "pt"},
        )
    except SafetensorError as error:
        raise ModelFolderError(
            f"cannot write {path}: {error}; what was there before is untouched"
        ) from error


def _shards(tensors: dict[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        # A tensor is never split: one larger than the limit is a shard of its own
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def named_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with its name in a LlamaForCausalLM state dict."""
    for name, parameter in model.named_parameters():
        yield (name if name.startswith("lm_head.") else f"model.{name}"), parameter


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in `folder`, from its config.json. Raises ModelFolderError for what a
    LLaMA cannot be.
    """
    folder = model_folder(folder)
    return from_huggingface(
        read_json_object(folder, "config.json"), origin=str(folder / "config.json")
    )


def read_model(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """The model in `folder`, in evaluation mode; dtype left out: as in the file.

    Raises one ModelFolderError for all missing, unexpected and misshapen tensors, which names ten
    of them at most.
    """
    folder = model_folder(folder)
    values, config = read_json_object(folder, "config.json"), read_config(folder)
    stored = dequantized(values, stored_tensors(weight_files(folder)))
    config, stored = as_llama(values, config, stored)
    if config.num_layers > len(stored):
        raise ModelFolderError(
            f"the weights in {folder} do not fit its config.json: it says {config.num_layers}"
            f" layers, and the files hold {len(stored)} tensors"
        )
    # Shapes without memory, to check the files against before anything is read
    model = build_transformer(config, "meta")
    wanted = dict(named_tensors(model))
    stored = {
        name: tensor
        for name, tensor in stored.items()
        if name in wanted or not _adds_nothing(name, tensor)
    }
    problems = _problems(wanted, stored)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ModelFolderError(
            f"the weights in {folder} do not fit its config.json:"
            f" {'; '.join(problems[:SHOWN])}{more}{suspicion(stored, values)}"
        )
    if dtype is None:
        dtype = _dtype_of(stored)
    model = with_memory(model.to(dtype), device)
    with torch.no_grad():
        # Tensor by tensor: beside the model, memory holds one
        for name, parameter in named_tensors(model):
            parameter.copy_(stored[name].read())
    return model.eval()


def _adds_nothing(name: str, tensor: StoredTensor) -> bool:
    """True for a bias of zeros, which some programs write where the model has none."""
    return name.endswith(".bias") and tensor.dtype in FLOATS and not tensor.read().any()


def _problems(wanted: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> list[str]:
    """List what does not fit, tensor by tensor."""
    problems = []
    for name, tensor in stored.items():
        if name not in wanted:
            problems.append(f"{name} is unexpected")
        elif tensor.shape != tuple(wanted[name].shape):
            problems.append(
                f"{name} has shape {list(tensor.shape)} instead of {list(wanted[name].shape)}"
            )
        elif tensor.dtype not in FLOATS:
            problems.append(f"{name} holds {tensor.dtype}, which are no weights by themselves")
    return problems + [f"{name} is missing" for name in wanted if name not in stored]


def _dtype_of(stored: Mapping[str, StoredTensor]) -> torch.dtype:
    """That of all tensors; a mixture is read in float32, which holds float16 and bfloat16
    exactly.
    """
    kinds = {tensor.dtype for tensor in stored.values()}
    only = kinds.pop()
    return FLOATS[only] if not kinds and only in ("F16", "BF16") else torch.float32
