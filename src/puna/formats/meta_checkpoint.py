"""Meta's checkpoints: `consolidated.NN.pth` with `params.json`, read and written.

A large model is split over files, one for each GPU that computed a part of every matrix; the
matrices are joined again along the dimension that was split. Queries and keys are stored for
interleaved rotary pairs (`rotate_interleaved`) and reordered on the way.

Source: github.com/meta-llama/llama and github.com/meta-llama/llama-models, model.py and args.py.
Usual mistake: joining the embedding of Llama 3, split by rows, as that of LLaMA 1 and 2, split by
columns.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from puna.errors import ModelFolderError
from puna.formats.foreign_model import ForeignModel
from puna.formats.meta_params import FILE as PARAMS
from puna.formats.meta_params import config_of, params_of, read_params
from puna.formats.torch_checkpoint import read_checkpoint, state_dict
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import named_tensors
from puna.nn.rope import half_split_to_interleaved, interleaved_to_half_split

WEIGHTS = "consolidated.00.pth"

# Meta's name -> LlamaForCausalLM's, and the dimension that model-parallel parts split (None: every
# part has the whole tensor; two: the first in LLaMA 1 and 2, the second in Llama 3)
_LAYER: Mapping[str, tuple[str, tuple[int, ...]]] = MappingProxyType(
    {
        "attention.wq": ("self_attn.q_proj", (0,)),
        "attention.wk": ("self_attn.k_proj", (0,)),
        "attention.wv": ("self_attn.v_proj", (0,)),
        "attention.wo": ("self_attn.o_proj", (1,)),
        "feed_forward.w1": ("mlp.gate_proj", (0,)),
        "feed_forward.w2": ("mlp.down_proj", (1,)),
        "feed_forward.w3": ("mlp.up_proj", (0,)),
        "attention_norm": ("input_layernorm", ()),
        "ffn_norm": ("post_attention_layernorm", ()),
    }
)
_OUTER: Mapping[str, tuple[str, tuple[int, ...]]] = MappingProxyType(
    {
        "tok_embeddings": ("model.embed_tokens", (1, 0)),
        "norm": ("model.norm", ()),
        "output": ("lm_head", (0,)),
    }
)


def part_files(folder: Path) -> list[Path]:
    """The parts of a checkpoint in order; empty where the folder holds none. Raises
    ModelFolderError for a part that is missing or leads out of the folder.
    """
    files = sorted(folder.glob("consolidated.*.pth"))
    expected = [f"consolidated.{number:02d}.pth" for number in range(len(files))]
    if [file.name for file in files] != expected:
        raise ModelFolderError(
            f"{folder} holds {', '.join(file.name for file in files[:10])}, but the parts of one"
            f" model are numbered {', '.join(expected[:3])} and on: copy those that are missing"
        )
    for file in files:
        if file.resolve().parent not in (folder.resolve(), folder.resolve().parents[1] / "blobs"):
            raise ModelFolderError(
                f"{file} is a link that leads out of its folder, to {file.resolve()}: name the"
                " folder that holds the file"
            )
    return files


def read_meta(folder: Path, context_length: int | None = None) -> ForeignModel:
    """The model of a folder with `params.json` and all parts; its tokenizer is the caller's to add.

    context_length: params.json has none; left out, that of the LLaMA with these numbers
    (`config_of`). Raises ModelFolderError for what the parts or params.json lack or contradict.
    """
    parts = [state_dict(read_checkpoint(path), path) for path in part_files(folder)]
    if not parts:
        raise ModelFolderError(f"{folder} holds no {WEIGHTS}, the weights of a Meta checkpoint")
    names = {name for name in parts[0] if name != "rope.freqs"}
    if any({name for name in part if name != "rope.freqs"} != names for part in parts):
        raise ModelFolderError(f"the parts in {folder} hold different tensors: copy them again")
    params = read_params(folder / PARAMS)
    layers = {found[1] for name in names if (found := re.match(r"layers\.(\d{1,6})\.", name))}
    if len(layers) != params.n_layers:
        raise ModelFolderError(
            f"{folder / PARAMS} says n_layers {params.n_layers}, but the weights have"
            f" {len(layers)} layers: the files belong to different models"
        )
    joined = _Joined(parts, params.dim)
    needed = ("tok_embeddings.weight", "output.weight", "layers.0.feed_forward.w1.weight")
    missing = [name for name in needed if name not in names or parts[0][name].dim() != 2]
    if missing:
        raise ModelFolderError(
            f"{folder}: the weights hold no matrix {', '.join(missing)}: copy them again"
        )
    tied = joined.shape(needed[0]) == joined.shape(needed[1]) and torch.equal(
        joined.tensor(needed[0]), joined.tensor(needed[1])
    )
    config = config_of(
        params,
        vocab_size=joined.shape(needed[0])[0],
        hidden=joined.shape(needed[2])[0],
        tied=tied,
        context_length=context_length,
        origin=str(folder / PARAMS),
    )
    _check(folder, joined, names - ({"output.weight"} if tied else set()), config)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for ours, theirs, heads in _names(config):
            tensor = joined.tensor(theirs)
            yield ours, interleaved_to_half_split(tensor, heads) if heads else tensor

    return ForeignModel(config, tensors, None, None, ())


class _Joined:
    """The tensors of all parts, joined when they are asked for."""

    def __init__(self, parts: list[dict[str, Tensor]], dim: int) -> None:
        self._parts, self._dim = parts, dim

    def shape(self, name: str) -> tuple[int, ...]:
        dimension = self._dimension(name)
        shape = list(self._parts[0][name].shape)
        if dimension is not None and dimension < len(shape):
            shape[dimension] = sum(part[name].shape[dimension] for part in self._parts)
        return tuple(shape)

    def tensor(self, name: str) -> Tensor:
        dimension = self._dimension(name)
        if dimension is None:
            return self._parts[0][name]
        return torch.cat([part[name] for part in self._parts], dim=dimension)

    def _dimension(self, name: str) -> int | None:
        """The dimension to join along, or None where the first part has all of the tensor."""
        shapes = {part[name].dim() for part in self._parts}
        if len(self._parts) == 1 or shapes != {2}:
            return None
        kind = re.sub(r"^layers\.\d+\.", "", name).removesuffix(".weight")
        choices = {**_LAYER, **_OUTER}.get(kind, ("", ()))[1]
        if kind == "tok_embeddings" and self._parts[0][name].shape[1] == self._dim:
            return 0
        return choices[0] if choices else None


def _names(config: ModelConfig) -> Iterator[tuple[str, str, int]]:
    """LlamaForCausalLM's name, Meta's, and the heads to reorder by, or 0."""
    heads = {"self_attn.q_proj": config.num_heads, "self_attn.k_proj": config.num_kv_heads}
    for theirs, (ours, _) in _OUTER.items():
        if theirs != "output" or not config.tie_embeddings:
            yield f"{ours}.weight", f"{theirs}.weight", 0
    for layer in range(config.num_layers):
        for theirs, (ours, _) in _LAYER.items():
            yield (
                f"model.layers.{layer}.{ours}.weight",
                f"layers.{layer}.{theirs}.weight",
                heads.get(ours, 0),
            )


def _check(folder: Path, joined: _Joined, names: set[str], config: ModelConfig) -> None:
    """Raise ModelFolderError where the tensors do not fit params.json."""
    wanted = {name: tuple(p.shape) for name, p in named_tensors(build_transformer(config, "meta"))}
    pairs = {theirs: ours for ours, theirs, _ in _names(config)}
    problems = [f"{name} is unexpected" for name in sorted(names - pairs.keys())]
    problems += [f"{name} is missing" for name in sorted(pairs.keys() - names)]
    problems += [
        f"{name} has shape {list(joined.shape(name))} instead of {list(wanted[pairs[name]])}"
        for name in sorted(names & pairs.keys())
        if joined.shape(name) != wanted[pairs[name]]
    ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ModelFolderError(
            f"the weights in {folder} do not fit its {PARAMS}: {'; '.join(problems[:10])}{more}"
        )


def write_meta(folder: Path, model: Transformer, dtype: torch.dtype | None = None) -> None:
    """Write `consolidated.00.pth` and `params.json` into an existing folder; a tied output matrix
    is written out, because Meta's code has no tied models.

    Raises ModelFolderError for a model that Meta's code cannot hold, before anything is written,
    and for a full disk.
    """
    params = params_of(model.config)
    ours = dict(named_tensors(model))
    tensors: dict[str, Tensor] = {}
    for name, theirs, heads in _names(model.config):
        tensor = ours[name].detach().to("cpu", dtype or ours[name].dtype)
        tensors[theirs] = half_split_to_interleaved(tensor, heads) if heads else tensor
    tensors.setdefault("output.weight", tensors["tok_embeddings.weight"])
    try:
        torch.save(tensors, folder / WEIGHTS)
    except RuntimeError as error:
        raise ModelFolderError(
            f"cannot write {folder / WEIGHTS}: {str(error).partition(chr(10))[0]}; what was there"
            " before is untouched"
        ) from error
    (folder / PARAMS).write_text(json.dumps(params, indent=2) + "\n", encoding="utf-8")
