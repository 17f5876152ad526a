"""The shape of a model in a GGUF file's metadata, both ways, and the names of its tensors.

`ARCHITECTURES` has a row for each `general.architecture` that is a LLaMA with other options; a key
that this file does not know is an error, because llama.cpp has no key without a meaning. Rope
scaling is in `gguf_rope.py`, vocabularies in `gguf_vocabulary.py`.

Source: the GGUF specification (ggml, docs/gguf.md); llama.cpp's src/llama-arch.cpp for names, and
its converter for the order of rows.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from puna.config import validate
from puna.errors import ConfigError, ModelFolderError
from puna.formats.gguf_file import GGUFFile, Value
from puna.formats.gguf_rope import read_scaling, scaling_metadata, unwritable
from puna.model.config import ModelConfig

MAX_COUNT = 1 << 24
"""Largest size that is believed of any dimension; a context of half of it makes tables of 4 GB."""


@dataclass(frozen=True)
class Architecture:
    """A value of `general.architecture`, and what it says of the model without a key."""

    interleaved: bool
    """Rows of q and k stand as Meta's rotary pairs do, neighbours, not halves."""
    options: Callable[[int], Mapping[str, Any]] = field(default=lambda _layers: {})
    """Options of `ModelConfig`, from the number of layers."""


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture(interleaved=True),
        "mistral3": Architecture(interleaved=True),
        "qwen2": Architecture(interleaved=False),
        "qwen3": Architecture(interleaved=False, options=lambda _: {"qk_norm": True}),
        "smollm3": Architecture(
            interleaved=True,
            options=lambda layers: {"layers_without_rope": tuple(range(3, layers, 4))},
        ),
    }
)

# their name -> ours, without and within a layer
_OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_THEIRS = {ours: theirs for theirs, ours in (_OUTSIDE | _INSIDE).items()}
_THEIR_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_OUR_NAME = re.compile(r"(?:model\.)?(?:layers\.(\d+)\.)?([\w.]+)\.(weight|bias)")


def our_name(name: str) -> str | None:
    """The name in a LlamaForCausalLM state dict of a GGUF tensor; None for one that has none."""
    match = _THEIR_NAME.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match.groups()
    ours = (_OUTSIDE if layer is None else _INSIDE).get(part)
    if ours is None:
        return None
    if ours == "lm_head":
        return f"lm_head.{kind}"
    return f"model.{ours}.{kind}" if layer is None else f"model.layers.{layer}.{ours}.{kind}"


def their_name(name: str) -> str:
    """The GGUF name of a tensor of a LlamaForCausalLM state dict."""
    match = _OUR_NAME.fullmatch(name)
    assert match is not None, name
    layer, part, kind = match.groups()
    return f"{'' if layer is None else f'blk.{layer}.'}{_THEIRS[part]}.{kind}"


def architecture_of(file: GGUFFile) -> Architecture:
    """The row of `ARCHITECTURES`. Raises ModelFolderError for another one."""
    name = file.number("general.architecture", str)
    if name not in ARCHITECTURES:
        raise ModelFolderError(
            f"{file.path} holds a model of architecture {name[:60]!r}; Puna reads"
            f" {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def read_shape(file: GGUFFile) -> ModelConfig:
    """The configuration of the model in a GGUF file. Raises ModelFolderError for what Puna has no
    option for.
    """
    architecture, name = architecture_of(file), file.number("general.architecture", str)

    def count(key: str, default: int | None = None) -> int:
        found = file.number(f"{name}.{key}", int, default)
        if not 0 < found <= MAX_COUNT:
            raise ModelFolderError(
                f"{file.path}: {name}.{key} is {found}, but must be between 1 and {MAX_COUNT}"
            )
        return found

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFolderError(
            f"{file.path} holds no matrix token_embd.weight, so it is no whole language model"
        )
    width, heads, layers = (
        count("embedding_length"),
        count("attention.head_count"),
        count("block_count"),
    )
    head_width = count("attention.key_length", max(width // heads, 1))
    # Shapes are compared tensor by tensor later; this keeps a wrong number from costing memory
    if layers > len(file.tensors):
        raise ModelFolderError(
            f"{file.path} announces {layers} layers but holds {len(file.tensors)} tensors"
        )
    scaling = read_scaling(file, name, head_width)
    shape = {
        "vocab_size": embedding.shape[0],
        "width": width,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": count("attention.head_count_kv", heads),
        "head_width": head_width,
        "feed_forward_width": count("feed_forward_length"),
        "feed_forward_bias": "blk.0.ffn_down.bias" in file.tensors,
        "context_length": count("context_length"),
        "norm_eps": file.number(f"{name}.attention.layer_norm_rms_epsilon", float),
        "rope_base": file.number(f"{name}.rope.freq_base", float, 10000.0),
        "rope_scaling": scaling,
        "tie_embeddings": "output.weight" not in file.tensors,
        **architecture.options(layers),
    }
    if f"{name}.attention.sliding_window" in file.metadata:
        shape["sliding_window"] = count("attention.sliding_window")
    if "blk.0.attn_q.bias" in file.tensors:
        output_too = "blk.0.attn_output.bias" in file.tensors
        shape["attention_bias"] = "all" if output_too else "qkv"
    _reject_unknown(file, name, head_width)
    try:
        return validate(ModelConfig, shape, str(file.path))
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error


def _reject_unknown(file: GGUFFile, name: str, head_width: int) -> None:
    """Raise ModelFolderError for a key of the architecture that would change the model."""
    # Without effect on the numbers, or with one value that has none; zero is llama.cpp's "unset"
    known = {
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.layer_norm_rms_epsilon", "attention.sliding_window", "rope.freq_base",
        "tensor_data_layout",
    }  # fmt: skip
    only: dict[str, Value] = {
        "attention.value_length": head_width,
        "rope.dimension_count": head_width,
        "attention.causal": True,
    }
    odd = [
        f"{key} = {str(value)[:60]}"
        for key, value in file.metadata.items()
        for prefix, _, part in [key.partition(".")]
        if prefix == name
        and part not in known
        and not part.startswith("rope.scal")
        and not (isinstance(value, int | float | str) and value in (0, only.get(part)))
    ]
    if odd:
        raise ModelFolderError(
            f"{file.path} describes a model that Puna cannot read: {'; '.join(odd[:10])}"
        )


def inexpressible(config: ModelConfig) -> list[str]:
    """List what llama.cpp's architectures llama and qwen3 cannot express of this model, as
    `key = value`; empty where they can express all.
    """
    free = {
        "preset", "vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_width",
        "context_length", "tie_embeddings", "padding_id", "norm_eps", "feed_forward_width",
        "feed_forward_multiple", "feed_forward_bias", "rope_base", "rope_scaling", "qk_norm",
        "attention_bias", "init", "init_std", "scale_residual_init",
        "zero_residual_init", "embedding_std",
    }  # fmt: skip
    # A new option of ModelConfig is one that llama.cpp lacks, until it is added here
    values = {key: value for key, value in config.model_dump().items() if value is not None}
    plain = ModelConfig.model_validate(
        {key: value for key, value in values.items() if key in free and not key.startswith("init")}
    )
    beyond = [
        f"{key} = {value}"
        for key, value in values.items()
        if key not in free and value != getattr(plain, key, None)
    ]
    beyond += unwritable(config.rope_scaling)
    if config.qk_norm:  # llama.cpp's qwen3 is plainer than its llama
        kind = None if config.rope_scaling is None else config.rope_scaling.kind
        has = values | {"rope_scaling.kind": kind}
        beyond += [
            f"{key} = {has[key]} beside qk_norm = True"
            for key, value in (
                ("feed_forward_bias", True),
                ("attention_bias", "qkv"),
                ("attention_bias", "all"),
                ("rope_scaling.kind", "llama3"),
            )
            if has.get(key) == value
        ]
    return beyond


def shape_metadata(config: ModelConfig) -> tuple[str, dict[str, Value]]:
    """The architecture, and the metadata of it, of a model that is not `inexpressible`."""
    name = "qwen3" if config.qk_norm else "llama"
    base, scaling = scaling_metadata(config)
    values: dict[str, Value] = {
        "block_count": config.num_layers,
        "context_length": config.context_length,
        "embedding_length": config.width,
        "feed_forward_length": config.feed_forward_width,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_width,
        "rope.freq_base": base,
        "vocab_size": config.vocab_size,
        **scaling,
    }
    return name, {f"{name}.{key}": value for key, value in values.items()}
