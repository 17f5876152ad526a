"""A model folder is a Hugging Face model folder: config.json, safetensors, generation_config.json, and puna.json for provenance.

What is written opens in transformers, vLLM and lm-evaluation-harness with no export step. What is read is any LlamaForCausalLM folder in
safetensors; pickles are never opened. Reading and writing stream one tensor at a time beside the model itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from puna.config import validate
from puna.durable import write_json
from puna.errors import ConfigError, ModelFolderError
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # beyond this the weights are split, with an index, as transformers does


def write_model(
    folder: Path,
    model: Transformer,
    *,
    bos_id: int | None = None,
    eos_ids: tuple[int, ...] = (),
    provenance: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the model's files into an existing folder; the tokenizer's files are their owner's to add.

    bos_id, eos_ids: what generation starts with and stops at. provenance: anything worth remembering, kept in puna.json.
    Not atomic by itself: give it the folder of `durable.new_folder`.
    """
    special: dict[str, Any] = {
        "bos_token_id": bos_id,
        "eos_token_id": list(eos_ids) if len(eos_ids) > 1 else next(iter(eos_ids), None),
    }
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    write_json(folder / "config.json", to_huggingface(model.config) | special | {"torch_dtype": dtype})
    write_json(folder / "generation_config.json", special)
    write_json(folder / "puna.json", {"model": model.config.model_dump(mode="json"), **(provenance or {})})
    shards = list(_shards({name: p.detach() for name, p in named_tensors(model)}, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(p.nbytes for _, p in named_tensors(model))
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one safetensors file. Raises ModelFolderError where the library cannot, as on a full disk."""
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise ModelFolderError(f"cannot write {path}: {error}; what was there before is untouched") from error


def _shards(tensors: dict[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
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
    """The shape of the model in `folder`, from its config.json. Raises ModelFolderError for what a LLaMA cannot be."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{folder} is no model folder: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path} holds {type(values).__name__}, but a config.json is one object of keys and values")
    return from_huggingface(values, origin=str(path))


def read_model(folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """The model in `folder`, in evaluation mode; dtype left out: as in the file.

    Raises one ModelFolderError that lists every missing, unexpected and misshapen tensor.
    """
    config = read_config(folder)
    model = build_transformer(config, "meta")
    wanted = dict(named_tensors(model))
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    found: dict[str, Path] = {}
    problems: list[str] = []
    kinds: set[str] = set()
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if name in ignored or name.endswith("rotary_emb.inv_freq"):
                    continue
                if name not in wanted:
                    problems.append(f"{name} is unexpected")
                    continue
                shape = list(file.get_slice(name).get_shape())
                if shape != list(wanted[name].shape):
                    problems.append(f"{name} has shape {shape} instead of {list(wanted[name].shape)}")
                kinds.add(file.get_slice(name).get_dtype())
                found[name] = path
    problems += [f"{name} is missing" for name in wanted if name not in found]
    if problems:
        raise ModelFolderError(f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}")
    if dtype is None:
        dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        parameters = dict(named_tensors(model))
        for path in sorted(set(found.values())):
            with _opened(path) as file:
                for name in (name for name, owner in found.items() if owner == path):
                    parameters[name].copy_(file.get_tensor(name))
    return model.eval()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order. Raises ModelFolderError, also where there are only pickles."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            names = sorted({str(name) for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{folder / INDEX} is not an index of weights: {error!r}") from error
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise ModelFolderError(f"{folder / INDEX} names files that are not in the folder: {', '.join(missing)}")
        return [folder / name for name in names]
    pickles = sorted(path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.glob(suffix))
    if pickles:
        raise ModelFolderError(
            f"{folder} holds its weights as pickles ({', '.join(pickles)}), which can run code when opened; "
            "convert them to safetensors on a machine that you can lose"
        )
    raise ModelFolderError(f"{folder} holds no {WEIGHTS} and no {INDEX}")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path} is not a whole safetensors file: {error}") from error


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The config.json of LlamaForCausalLM for this shape."""
    scaling = config.rope_scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "rope_scaling": scaling
        and {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context,
        },
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def from_huggingface(values: dict[str, Any], origin: str) -> ModelConfig:
    """The shape that a LlamaForCausalLM config.json describes; keys that it leaves out have LlamaConfig's defaults.

    Raises ModelFolderError for another architecture, biases, another activation or a RoPE scaling that Puna does not have.
    """
    refused = [
        f"{key} = {values[key]!r} (only {rule!r} is supported)"
        for key, rule in {
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        }.items()
        if values.get(key, rule) != rule
    ]
    # transformers 5 writes rope_parameters; 4 and most published folders have rope_theta and rope_scaling
    rope = {
        "rope_theta": values.get("rope_theta", 10000.0),
        **(values.get("rope_scaling") or {}),
        **(values.get("rope_parameters") or {}),
    }
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        refused.append(f"rope scaling {kind!r} (only 'llama3' is supported)")
    if refused:
        raise ModelFolderError(f"{origin} describes a model that Puna cannot read: {'; '.join(refused)}")
    try:
        scaling = kind == "llama3" and {
            "factor": rope["factor"],
            "low_frequency_factor": rope["low_freq_factor"],
            "high_frequency_factor": rope["high_freq_factor"],
            "original_context": rope["original_max_position_embeddings"],
        }
        shape = {
            "vocab_size": values["vocab_size"],
            "width": values["hidden_size"],
            "feed_forward_width": values["intermediate_size"],
            "num_layers": values["num_hidden_layers"],
            "num_heads": values["num_attention_heads"],
            "num_kv_heads": values.get("num_key_value_heads") or values["num_attention_heads"],
            "context_length": values.get("max_position_embeddings", 2048),
            "norm_eps": values.get("rms_norm_eps", 1e-6),
            "rope_base": rope["rope_theta"],
            "rope_scaling": scaling or None,
            "tie_embeddings": values.get("tie_word_embeddings", False),
        }
    except KeyError as error:
        raise ModelFolderError(f"{origin} lacks the key {error}") from error
    if values.get("head_dim"):
        shape["head_width"] = values["head_dim"]
    try:
        return validate(ModelConfig, shape, origin)
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error
