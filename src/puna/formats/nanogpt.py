"""nanoGPT's checkpoints (`ckpt.pt`), read: learned positions, LayerNorm, GELU, a tied output
matrix; and the reasons why nanochat's cannot be.

The three projections of attention stand in one matrix and are cut apart. Writing is not here.

Source: github.com/karpathy/nanoGPT, model.py and train.py.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from puna.config import validate
from puna.errors import ConfigError, ModelFolderError
from puna.formats.foreign_model import ForeignModel
from puna.formats.torch_checkpoint import state_dict
from puna.model.config import ModelConfig

_ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_EMBEDDINGS = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.embed_positions.weight": "transformer.wpe.weight",
}
_LAYER = {
    "input_layernorm": "ln_1",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}


def read_nanogpt(path: Path, checkpoint: Mapping[str, Any]) -> ForeignModel:
    """The model of a checkpoint that `read_checkpoint` has opened; it holds no tokenizer.

    Raises ModelFolderError for missing or contradicting sizes.
    """
    arguments = checkpoint["model_args"]
    missing = (
        [key for key in _ARGUMENTS if type(arguments.get(key)) is not int]
        if isinstance(arguments, Mapping)
        else list(_ARGUMENTS)
    )
    if missing:
        raise ModelFolderError(f"{path}: model_args has no whole number {', '.join(missing)}")
    tensors = {
        name.removeprefix("_orig_mod."): tensor
        for name, tensor in state_dict(checkpoint["model"], path).items()
        # the causal mask of versions without flash attention
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    config = _config(path, arguments, biased=any(name.endswith(".bias") for name in tensors))
    names = dict(_names(config))
    tensors.pop("lm_head.weight", None)  # wte itself, stored twice
    wanted = _shapes(config, names)
    problems = [f"{name} is unexpected" for name in sorted(tensors.keys() - wanted.keys())]
    problems += [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [
        f"{name} has shape {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ModelFolderError(
            f"the weights in {path} do not fit its model_args: {'; '.join(problems[:10])}{more}"
        )

    def named() -> Iterator[tuple[str, Tensor]]:
        for ours, theirs in names.items():
            yield ours, tensors[theirs]
        for layer in range(config.num_layers):
            for kind in _kinds(config):
                joined = tensors[f"transformer.h.{layer}.attn.c_attn.{kind}"]
                for letter, part in zip("qkv", joined.chunk(3), strict=True):
                    yield f"model.layers.{layer}.self_attn.{letter}_proj.{kind}", part

    return ForeignModel(config, named, None, None, ())


def _config(path: Path, arguments: Mapping[str, Any], *, biased: bool) -> ModelConfig:
    if arguments["n_layer"] > 1000:
        raise ModelFolderError(
            f"{path}: model_args has n_layer {arguments['n_layer']}, more than 1000: copy the file"
            " again"
        )
    shape = {
        "vocab_size": arguments["vocab_size"],
        "width": arguments["n_embd"],
        "num_layers": arguments["n_layer"],
        "num_heads": arguments["n_head"],
        "feed_forward": "gelu",
        "feed_forward_width": 4 * arguments["n_embd"],
        "context_length": arguments["block_size"],
        "position": "learned",
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "norm_bias": biased,
        "attention_bias": "all" if biased else "none",
        "feed_forward_bias": biased,
        "tie_embeddings": True,
    }
    try:
        return validate(ModelConfig, shape, f"{path}: model_args")
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error


def _names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Puna's name and nanoGPT's, of all but the joined projections."""
    yield from _EMBEDDINGS.items()
    for kind in _kinds(config):
        yield f"model.norm.{kind}", f"transformer.ln_f.{kind}"
        for layer in range(config.num_layers):
            for ours, theirs in _LAYER.items():
                yield (
                    f"model.layers.{layer}.{ours}.{kind}",
                    f"transformer.h.{layer}.{theirs}.{kind}",
                )


def _kinds(config: ModelConfig) -> tuple[str, ...]:
    """Of the parameters of a norm or a linear layer."""
    return ("weight", "bias") if config.norm_bias else ("weight",)


def _shapes(config: ModelConfig, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    width, hidden = config.width, config.feed_forward_width
    by_ending: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, width),
        "wpe.weight": (config.context_length, width),
        "attn.c_proj.weight": (width, width),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_fc.bias": (hidden,),
    }
    shapes = {
        theirs: next(
            (shape for ending, shape in by_ending.items() if theirs.endswith(ending)), (width,)
        )
        for theirs in names.values()
    }
    of_joined: dict[str, tuple[int, ...]] = {"weight": (3 * width, width), "bias": (3 * width,)}
    joined = {
        f"transformer.h.{layer}.attn.c_attn.{kind}": of_joined[kind]
        for layer in range(config.num_layers)
        for kind in _kinds(config)
    }
    return shapes | joined


def refuse_nanochat(path: Path, names: Mapping[str, torch.Tensor]) -> NoReturn:
    """Raise ModelFolderError naming what a nanochat model has that no configuration here holds.

    Source: github.com/karpathy/nanochat, nanochat/gpt.py.
    """
    has = ["logits bounded by 15 tanh(x / 15)", "a norm between embedding and first block"]
    extras = {
        "resid_lambdas": "a learned factor on the residual stream of each layer",
        "x0_lambdas": "the embedding added again in each layer",
        "value_embeds": "embeddings added to the values",
        "ve_gate": "embeddings added to the values",
        "smear": "a mix of neighbouring embeddings",
    }
    has += dict.fromkeys(
        words for part, words in extras.items() if any(part in name for name in names)
    )
    raise ModelFolderError(
        f"{path} is a nanochat checkpoint, which no configuration of Puna holds: it has"
        f" {'; '.join(has)}. Chat with it in nanochat itself"
    )
