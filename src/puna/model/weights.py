"""A model folder is a Hugging Face model folder: config.json, safetensors, generation_config.json,
and puna.json for provenance.

What LlamaForCausalLM can express opens in transformers, vLLM and lm-evaluation-harness with no
export step; a model with other parts is written under a type of its own (model/huggingface.py).
What is read is either kind, in safetensors; pickles are never opened. Reading and writing stream
one tensor at a time beside the model itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from puna.durable import write_json
from puna.errors import ModelFolderError
from puna.model.config import ModelConfig
from puna.model.huggingface import from_huggingface, to_huggingface
from puna.model.transformer import Transformer, build_transformer, with_memory
from puna.nn.quantized import Linear4bit

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# beyond this the weights are split, with an index, as transformers does
SHARD_BYTES = 5_000_000_000


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
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{folder} is no model folder: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelFolderError(
            f"{path} holds {type(values).__name__}, but a config.json is one object of keys and"
            " values"
        )
    return from_huggingface(values, origin=str(path))


def read_model(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """The model in `folder`, in evaluation mode; dtype left out: as in the file.

    Raises one ModelFolderError that lists every missing, unexpected and misshapen tensor.
    """
    config = read_config(folder)
    # Shapes without memory, to check the files against before anything is read
    model = build_transformer(config, "meta")
    wanted = dict(named_tensors(model))
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    found: dict[str, Path] = {}
    problems: list[str] = []
    kinds: set[str] = set()
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                # older folders hold RoPE's frequencies, which follow from the configuration
                if name in ignored or name.endswith("rotary_emb.inv_freq"):
                    continue
                if name not in wanted:
                    problems.append(f"{name} is unexpected")
                    continue
                shape = list(file.get_slice(name).get_shape())
                if shape != list(wanted[name].shape):
                    problems.append(
                        f"{name} has shape {shape} instead of {list(wanted[name].shape)}"
                    )
                kinds.add(file.get_slice(name).get_dtype())
                found[name] = path
    problems += [f"{name} is missing" for name in wanted if name not in found]
    if problems:
        raise ModelFolderError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}"
        )
    # A mixture of dtypes is read in float32, which holds float16 and bfloat16 exactly
    if dtype is None:
        dtype = (
            {"F16": torch.float16, "BF16": torch.bfloat16}.get(kinds.pop(), torch.float32)
            if len(kinds) == 1
            else torch.float32
        )
    model = with_memory(model.to(dtype), device)
    with torch.no_grad():
        parameters = dict(named_tensors(model))
        # File by file, tensor by tensor: beside the model, memory holds one tensor
        for path in sorted(set(found.values())):
            with _opened(path) as file:
                for name in (name for name, owner in found.items() if owner == path):
                    parameters[name].copy_(file.get_tensor(name))
    return model.eval()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order. Raises ModelFolderError, also where there
    are only pickles.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            names = sorted({str(name) for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFolderError(
                f"{folder / INDEX} is not an index of weights: {error!r}"
            ) from error
        # A name with a folder in it could lead out of the model's
        missing = [
            name for name in names if Path(name).name != name or not (folder / name).is_file()
        ]
        if missing:
            raise ModelFolderError(
                f"{folder / INDEX} names files that are not in the folder: {', '.join(missing)}"
            )
        return [folder / name for name in names]
    pickles = sorted(
        path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.glob(suffix)
    )
    if pickles:
        raise ModelFolderError(
            f"{folder} holds its weights as pickles ({', '.join(pickles)}), which can run code when"
            " opened; convert them to safetensors on a machine that you can lose"
        )
    raise ModelFolderError(f"{folder} holds no {WEIGHTS} and no {INDEX}")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path} is not a whole safetensors file: {error}") from error
