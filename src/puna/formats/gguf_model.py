"""A model with its vocabulary from a GGUF file, the format of llama.cpp and ollama, and into one.

Reading checks the whole file first and takes memory for the weights one tensor at a time. What
stands where: `gguf_file.py` the container, `gguf_config.py` the shape, `gguf_tensors.py` values and
order of rows, `gguf_vocabulary.py` text to ids.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGUFValueType
from torch import Tensor, nn

from puna.durable import new_file
from puna.errors import ConfigError, ModelFolderError
from puna.formats.foreign_model import ForeignModel
from puna.formats.gguf_config import (
    ARCHITECTURES,
    architecture_of,
    inexpressible,
    our_name,
    read_shape,
    shape_metadata,
    their_name,
)
from puna.formats.gguf_file import GGUFFile, Value
from puna.formats.gguf_rope import DIVISORS, TOLD, divisors_of
from puna.formats.gguf_tensors import heads_of, read_values, to_halves, to_neighbours
from puna.formats.gguf_tokens import vocabulary_metadata
from puna.formats.gguf_types import (
    GGUF_TYPES,
    TYPE_MIXTURES,
    GGUFType,
    TypeMixture,
    in_type,
    num_bytes,
    type_of,
)
from puna.formats.gguf_vocabulary import read_vocabulary
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import named_tensors
from puna.nn.quantized import Linear4bit
from puna.tokenizer.tokenizer import Tokenizer

_LISTED = 10


def read_gguf(path: Path | str) -> ForeignModel:
    """The model in a GGUF file, checked; its weights are read when they are asked for.

    Raises ModelFolderError for a file that is damaged or holds what Puna has no option for, and
    TokenizerError for such a vocabulary.
    """
    file = GGUFFile(Path(path))
    config = read_shape(file)
    _check_tensors(file, config)
    vocabulary = read_vocabulary(file)
    if vocabulary is None:
        return ForeignModel(config, lambda: read_weights(file, config), None, None, ())
    tokenizer = vocabulary.tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelFolderError(
            f"{path}: the vocabulary has {tokenizer.vocab_size} ids, but the embedding"
            f" {config.vocab_size} rows; get the file again"
        )
    return ForeignModel(
        config,
        lambda: read_weights(file, config),
        tokenizer,
        vocabulary.bos_id,
        vocabulary.eos_ids,
    )


def read_weights(file: GGUFFile, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The weights, named and ordered as `ForeignModel.tensors` has them."""
    interleaved = architecture_of(file).interleaved
    for tensor in file.tensors.values():
        name = our_name(tensor.name)
        if name is None:
            continue  # the divisors; no other nameless tensor has passed
        values = read_values(file, tensor)
        heads = heads_of(tensor.name, config.num_heads, config.num_kv_heads)
        if interleaved and heads is not None:
            values = to_halves(values, heads)
        yield name, values


def _check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """Raise ModelFolderError unless the file's tensors are those of the configuration."""
    # the tables of rotary positions take memory by the context, even on "meta"
    small = config.model_copy(update={"context_length": 1})
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in named_tensors(build_transformer(small, "meta"))
    }
    problems = []
    for tensor in file.tensors.values():
        name = our_name(tensor.name)
        expected = wanted.pop(name, None) if name is not None else None
        if tensor.name == DIVISORS:
            continue
        if expected is None:
            problems.append(f"{tensor.name} is unexpected")
        elif expected != tensor.shape:
            problems.append(
                f"{tensor.name} has shape {list(tensor.shape)} instead of {list(expected)}"
            )
    problems += [f"{name} is missing" for name in wanted]
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ModelFolderError(
            f"the tensors in {file.path} do not fit its metadata:"
            f" {'; '.join(problems[:_LISTED])}{more}"
        )


def write_gguf(
    path: Path | str,
    model: Transformer,
    tokenizer: Tokenizer,
    type: GGUFType = "f16",  # noqa: A002  (the word of the command's option)
) -> None:
    """Write a GGUF file that llama.cpp and ollama run, whole or not at all.

    type: of the matrices (`gguf_types.TYPE_MIXTURES`); vectors stay float32. Takes memory for one
    tensor beside the model. Raises ModelFolderError for a model and TokenizerError for a vocabulary
    that llama.cpp cannot express, and ModelFolderError for a weight that the type cannot hold.
    """
    if type not in TYPE_MIXTURES:
        raise ConfigError(f"type is {type!r}; choose one of {', '.join(GGUF_TYPES)}")
    config, mixture, path = model.config, TYPE_MIXTURES[type], Path(path)
    odd = inexpressible(config)
    if any(isinstance(module, Linear4bit) for module in model.modules()):
        odd.append("layers of four bits")
    if odd:
        raise ModelFolderError(
            f"llama.cpp has no model with {'; '.join(odd)}: keep it as a folder, which Puna reads"
        )
    architecture, shape = shape_metadata(config)
    general: dict[str, Value] = {
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": int(mixture.file_type),
        "general.quantization_version": 2,
    }
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        general[TOLD] = config.rope_scaling.model_dump_json(exclude_none=True)
    metadata = general | shape | vocabulary_metadata(tokenizer, config.vocab_size)
    with new_file(path) as aside:
        writer = GGUFWriter(aside, architecture)
        for key, value in metadata.items():
            _add(writer, key, value)
        try:
            _write_tensors(writer, model, ARCHITECTURES[architecture].interleaved, mixture)
        finally:
            writer.close()


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    """Counts and ids as 32 bits without a sign, fractions as float32: the types that llama.cpp
    asks for.
    """
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case np.ndarray():
            kind = GGUFValueType.FLOAT32 if value.dtype == np.float32 else GGUFValueType.INT32
            writer.add_key_value(key, value.tolist(), GGUFValueType.ARRAY, sub_type=kind)


def _write_tensors(
    writer: GGUFWriter, model: Transformer, interleaved: bool, mixture: TypeMixture
) -> None:
    """The table, then the values one tensor at a time."""
    config = model.config
    tensors = {their_name(name): tensor for name, tensor in named_tensors(model)}
    divisors = divisors_of(config)
    if divisors is not None:
        tensors[DIVISORS] = nn.Parameter(divisors, requires_grad=False)
    types = {
        name: type_of(name, tuple(tensor.shape), mixture, config.num_layers, config.tie_embeddings)
        for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        writer.add_tensor_info(
            name, shape, np.dtype(np.float32), num_bytes(shape, types[name]), types[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():
        heads = heads_of(name, config.num_heads, config.num_kv_heads)
        turned = to_neighbours(tensor, heads) if interleaved and heads is not None else tensor
        writer.write_tensor_data(in_type(name, turned, types[name]))
