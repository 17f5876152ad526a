"""LoRA adapters in the folders that PEFT writes: read and checked, attached to a model by name, or
merged into its weights.

Not here: training adapters, and adapters that are not LoRA. What would change the result and is not
applied here is rejected, never passed over. An attached adapter takes the memory of its matrices
and leaves the model's weights alone; a merged one costs nothing afterwards, and the model is then
that one only.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from puna.durable import new_folder, write_json
from puna.errors import ModelFolderError, RequestError
from puna.model.adapter_config import BY_PEFT, CONFIG, AdapterConfig, read_adapter_config
from puna.model.family_tensors import keeps_its_config
from puna.model.folder_files import model_folder, read_json_object
from puna.model.transformer import Transformer
from puna.model.weights import read_model, write_model
from puna.nn.lora import LoRALinear, LowRankUpdate, Selection
from puna.nn.quantized import Linear4bit

TENSORS = "adapter_model.safetensors"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHOWN_PROBLEMS = 8  # an adapter of another model has a thousand
# What a merged folder takes over from the model's, besides the weights and mostly config.json
KEPT = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


def read_adapter(folder: Path, model: Transformer) -> dict[str, LowRankUpdate]:
    """The updates of the adapter in `folder` to the linear layers of `model`, by their names in it;
    on the CPU, in the file's dtypes.

    Raises ModelFolderError for a configuration that cannot be honoured, tensors that are missing,
    unexpected, misshapen or not finite, a damaged file, pickles, targets outside the blocks, and a
    model with layers of four bits.
    """
    if any(isinstance(module, Linear4bit) for module in model.modules()):
        raise ModelFolderError(
            "layers of four bits take no adapter: use the model in full width, or quantize the"
            " merged model"
        )
    config = read_adapter_config(folder)
    tensors = _read_tensors(folder)
    # All problems are collected before the first is reported; tensors that are used are popped, so
    # that what is left at the end is unexpected
    problems = []
    updates = {}
    for name in _targeted(config, model, folder):
        linear, rank = cast(nn.Linear, model.get_submodule(name)), config.rank(f"model.{name}")
        found = []
        # A [r, I] projects down to the rank, B [O, r] back up
        for letter, shape in (
            ("A", [rank, linear.in_features]),
            ("B", [linear.out_features, rank]),
        ):
            key = f"base_model.model.model.{name}.lora_{letter}.weight"
            found.append(tensors.pop(key, None))
            problems += [f"{key} {problem}" for problem in _tensor_problems(found[-1], shape)]
        a, b = found
        if not problems and a is not None and b is not None:
            updates[name] = LowRankUpdate(a, b, config.scale(f"model.{name}"))
    problems += [f"{key} is unexpected" for key in tensors]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        made_for = f", {config.base_model_name_or_path}" if config.base_model_name_or_path else ""
        raise ModelFolderError(
            f"{folder / TENSORS} does not fit the model and its {CONFIG}: {shown}; use the model"
            f" that the adapter was trained on{made_for}"
        )
    return updates


def _targeted(config: AdapterConfig, model: Transformer, folder: Path) -> list[str]:
    """The names in `model` of the modules that have an adapter. Raises ModelFolderError where they
    cannot have one, or there are none.
    """
    inside = {
        f"model.{name}": name
        for name, module in model.layers.named_modules(prefix="layers")
        if isinstance(module, nn.Linear)
    }
    # a tied output layer is no module here, but is one in LlamaForCausalLM
    everything = [
        *(f"model.{name}" for name, _ in model.named_modules() if name not in ("", "lm_head")),
        "lm_head",
    ]
    # Matched as PEFT does, over all modules, so that a target outside the blocks is seen
    targets = [name for name in everything if config.targets(name, linear=name in inside)]
    outside = [name for name in targets if name not in inside]
    if outside:
        raise ModelFolderError(
            f"{folder / CONFIG} puts an adapter on {', '.join(outside)}, but here only linear"
            f" layers of the blocks can have one; {BY_PEFT}"
        )
    if not targets:
        raise ModelFolderError(
            f"{folder / CONFIG} has target_modules = {config.target_modules!r}, which no linear"
            " layer of the model is called; the layers are"
            f" {', '.join(sorted({name.rpartition('.')[2] for name in inside}))}"
        )
    return [inside[name] for name in targets]


def _tensor_problems(tensor: Tensor | None, shape: list[int]) -> Iterator[str]:
    if tensor is None:
        yield "is missing"
    elif list(tensor.shape) != shape:
        yield f"has shape {list(tensor.shape)} instead of {shape}"
    elif tensor.dtype not in DTYPES:
        yield f"has dtype {tensor.dtype} instead of one of {', '.join(map(str, DTYPES))}"
    elif not tensor.isfinite().all():
        yield "holds infinities or NaN"


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path.is_file():
        pickles = sorted(
            file.name
            for file in folder.glob("adapter_model.*")
            if file.suffix in (".bin", ".pt", ".pth")
        )
        if pickles:
            raise ModelFolderError(
                f"{folder} holds its adapter as a pickle ({', '.join(pickles)}), which can run code"
                " when opened; open it with PEFT on a machine that you can lose, and save it again"
                " with save_pretrained, which writes safetensors"
            )
        raise ModelFolderError(f"{folder} holds no {TENSORS}; copy the adapter again")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} is not a whole safetensors file: {error}; copy the adapter again"
        ) from error


class Adapters:
    """The adapters on a model, and which rows of its next forward passes go through which: what
    `attach` returns.

    names: in the order in which they were given.
    """

    def __init__(self, names: tuple[str, ...], selection: Selection) -> None:
        self.names = names
        self._selection = selection

    def select(self, segments: Iterable[tuple[str | None, int, int]]) -> None:
        """Say whose the rows of the next forward passes are: (adapter or None, start, stop), in
        order and apart.

        Rows are counted over the batch flattened to [N, D]; those that no segment names belong to
        no adapter. Changes what the model computes until the next call; `select([])` gives the
        model as it is. Raises RequestError for a name that is not attached.
        """
        chosen = [
            (name, start, stop)
            for name, start, stop in segments
            if name is not None and start < stop
        ]
        unknown = sorted({name for name, _, _ in chosen} - set(self.names))
        if unknown:
            raise RequestError(
                f"there is no adapter {unknown[0]!r}; the model has"
                f" {', '.join(self.names) or 'none'}"
            )
        # Sorted bounds mean segments in order and apart
        bounds = [bound for _, start, stop in chosen for bound in (start, stop)]
        assert bounds == sorted(bounds), f"segments overlap or are out of order: {chosen}"
        assert not bounds or bounds[0] >= 0, f"a segment begins before the first row: {chosen}"
        self._selection.segments = tuple(chosen)


def attach(model: Transformer, folders: Mapping[str, Path | str]) -> Adapters:
    """Put the adapters of these folders on the model, each under its name; until rows are selected
    the model computes what it did.

    Changes the model: each linear layer that an adapter aims at becomes a `LoRALinear` around the
    same weight. All are read and checked before the first is attached. Raises ModelFolderError as
    `read_adapter` does, and where the model has adapters already.
    """
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ModelFolderError("the model has adapters already: attach all of them in one call")
    adapters = {name: read_adapter(Path(folder), model) for name, folder in folders.items()}
    # One object in all layers: `Adapters.select` changes it, and every layer sees the change
    selection = Selection()
    for target in sorted({target for updates in adapters.values() for target in updates}):
        parent, _, child = target.rpartition(".")
        layer = LoRALinear(cast(nn.Linear, model.get_submodule(target)), selection)
        for name, updates in adapters.items():
            if target in updates:
                layer.add(name, updates[target])
        setattr(model.get_submodule(parent), child, layer)
    return Adapters(tuple(adapters), selection)


@torch.no_grad()
def merge(model: Transformer, folder: Path) -> list[str]:
    """W <- W + scale B A in every layer that the adapter in `folder` aims at; the names of these
    layers.

    Changes the weights: computed in float32, rounded once to their dtype. In bfloat16 that rounding
    is as large as a small update, so a merged model and the attached adapter differ by more than
    they do in float32. Raises ModelFolderError as `read_adapter` does.
    """
    updates = read_adapter(folder, model)
    for name, update in updates.items():
        weight = cast(nn.Linear, model.get_submodule(name)).weight
        weight.copy_(weight.float() + update.delta().to(weight.device))
    return list(updates)


def write_merged(source: Path, adapter: Path, out: Path) -> list[str]:
    """Write the model folder `out`: that of `source` with the adapter of the folder `adapter`
    merged; the names of the changed layers.

    Everything but the weights is the source's: configuration, tokenizer, generation defaults,
    licence; where the source stores its weights in another form (quantized, merged matrices,
    multipliers), config.json is that of the plain model. puna.json says what was merged, and keeps
    the tokenizer's hash. `out` appears whole or not at all. Raises ModelFolderError as `read_model`
    and `read_adapter` do, and where `out` is there already.
    """
    if out.exists():
        raise ModelFolderError(
            f"{out} is there already, and is not overwritten: name a folder that does not exist, or"
            " remove it first"
        )
    source = model_folder(source)
    values = read_json_object(source, "config.json")
    model = read_model(source)
    changed = merge(model, adapter)
    with (adapter / TENSORS).open("rb") as file:
        merged = {
            "model": source.resolve().name,
            "adapter": adapter.resolve().name,
            "adapter_sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            "adapter_config": read_adapter_config(adapter).model_dump(mode="json"),
        }
    with new_folder(out) as aside:
        write_model(aside, model, provenance=_tokenizer_hash(source) | {"merged": merged})
        if keeps_its_config(values):
            shutil.copyfile(source / "config.json", aside / "config.json")
        else:
            special = {key: values.get(key) for key in ("bos_token_id", "eos_token_id")}
            write_json(aside / "config.json", read_json_object(aside, "config.json") | special)
        for pattern in KEPT:
            for kept in filter(Path.is_file, source.glob(pattern)):
                shutil.copyfile(kept, aside / kept.name)
    return changed


def _tokenizer_hash(folder: Path) -> dict[str, str]:
    """The entry of a model's puna.json by which its tokenizer is known; none of a model from
    elsewhere.
    """
    try:
        values = json.loads((folder / "puna.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {key: values[key] for key in ("tokenizer_hash",) if key in values}
