"""llama2.c's `.bin` files: a header and the weights in a fixed order, read and written.

Three versions: 0 ("legacy", which `run.c` opens; 28 bytes of header), 1 (the same weights behind a
header of 256 bytes) and 2 (8-bit weights with a scale for each group, which `runq.c` opens). All
are read, version 0 is written. Queries and keys are stored for interleaved rotary pairs. The format
has no room for a rotary base other than 10000, an epsilon other than 1e-5, or a head width other
than D / H.

Source: github.com/karpathy/llama2.c, export.py and run.c. Usual mistake: reading version 0 with the
order of version 1, in which all norms come first.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from puna.config import validate
from puna.errors import ConfigError, ModelFolderError
from puna.formats.foreign_model import ForeignModel
from puna.formats.plain_llama import beyond_plain_llama
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors
from puna.nn.rope import half_split_to_interleaved, interleaved_to_half_split

MAGIC = 0x616B3432  # "ak42"
HEADER_BYTES = 256  # of versions 1 and 2
LEGACY_BYTES = 28
MAX_LAYERS = 1000  # the largest published LLaMA has 126; building a layer takes time

_NORMS = ("input_layernorm", "post_attention_layernorm")
_ATTENTION = tuple(f"self_attn.{letter}_proj" for letter in "qkvo")
_FEED_FORWARD = ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")


@dataclass(frozen=True)
class Llama2cHeader:
    """The numbers of a file. group: weights with one scale in version 2, else 0."""

    version: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    tied: bool
    group: int = 0

    @property
    def start(self) -> int:
        """Offset of the first weight in bytes."""
        return HEADER_BYTES if self.version else LEGACY_BYTES

    def order(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of the file; the two names "" stand for the rotary tables
        that version 0 keeps and nobody reads.
        """
        if self.version:
            for kind in _NORMS:
                yield from self._of_layers(kind)
            yield "model.norm.weight", (self.width,)
        yield "model.embed_tokens.weight", (self.vocab, self.width)
        kinds = (
            (*_ATTENTION, *_FEED_FORWARD)
            if self.version
            else (_NORMS[0], *_ATTENTION, _NORMS[1], *_FEED_FORWARD)
        )
        for kind in kinds:
            yield from self._of_layers(kind)
        if not self.version:
            yield "model.norm.weight", (self.width,)
            half = self.width // self.heads // 2
            yield from [("", (self.context, half))] * 2
        if not self.tied:
            yield "lm_head.weight", (self.vocab, self.width)

    def _of_layers(self, kind: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        shared = self.kv_heads * (self.width // self.heads)
        shape = {
            "self_attn.k_proj": (shared, self.width),
            "self_attn.v_proj": (shared, self.width),
            "mlp.gate_proj": (self.hidden, self.width),
            "mlp.up_proj": (self.hidden, self.width),
            "mlp.down_proj": (self.width, self.hidden),
        }.get(kind, (self.width,) if kind in _NORMS else (self.width, self.width))
        for layer in range(self.layers):
            yield f"model.layers.{layer}.{kind}.weight", shape

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one tensor in the file: float32, or in version 2 a matrix as int8 with one
        float32 a group.
        """
        entries = 1
        for size in shape:
            entries *= size
        if self.group and len(shape) == 2:
            return entries + entries // self.group * 4
        return 4 * entries

    def file_bytes(self) -> int:
        """The size of the whole file, without a walk over its layers."""
        one = Llama2cHeader(**{**vars(self), "layers": 1})
        none = Llama2cHeader(**{**vars(self), "layers": 0})
        outer = sum(self.stored_bytes(shape) for _, shape in none.order())
        layer = sum(self.stored_bytes(shape) for _, shape in one.order()) - outer
        return self.start + outer + self.layers * layer


def read_header(path: Path) -> Llama2cHeader | None:
    """The header of a llama2.c file, or None where the content is none: the numbers must give the
    very size of the file.
    """
    with path.open("rb") as file:
        first = file.read(HEADER_BYTES)
    if len(first) < LEGACY_BYTES:
        return None
    if struct.unpack_from("<I", first)[0] == MAGIC:
        if len(first) < HEADER_BYTES:
            return None
        version = struct.unpack_from("<i", first, 4)[0]
        numbers = struct.unpack_from("<7i", first, 8)
        tied = first[36] == 1
        group = struct.unpack_from("<i", first, 37)[0] if version == 2 else 0
        if version not in (1, 2) or first[36] > 1 or (version == 2 and group <= 0):
            return None
    else:
        version, group = 0, 0
        numbers = struct.unpack_from("<7i", first)
        tied = numbers[5] > 0
        numbers = (*numbers[:5], abs(numbers[5]), numbers[6])
    width, hidden, layers, heads, kv_heads, vocab, context = numbers
    if (
        min(numbers) <= 0
        or layers > MAX_LAYERS
        or width % heads
        or (width // heads) % 2
        or heads % kv_heads
    ):
        return None
    header = Llama2cHeader(
        version, width, hidden, layers, heads, kv_heads, vocab, context, tied, group
    )
    if group and any(
        (shape[0] * shape[1]) % group
        for _, shape in Llama2cHeader(**{**vars(header), "layers": 1}).order()
        if len(shape) == 2
    ):
        return None
    # A context is a number alone in versions 1 and 2, but tables of its length follow from it
    size = path.stat().st_size
    bounded = context * (width // heads) * 4 <= max(4 * size, 1 << 24)
    return header if header.file_bytes() == size and bounded else None


def read_llama2c(path: Path) -> ForeignModel:
    """The model of a `.bin` file; its tokenizer is the caller's to add. Tensors are float32 views
    of the file, those of version 2 made from its groups.

    Raises ModelFolderError where the numbers of the header do not give the size of the file.
    """
    header = read_header(path)
    if header is None:
        raise ModelFolderError(
            f"{path} is no whole llama2.c file: the numbers in its header do not give its"
            f" {path.stat().st_size:,} bytes; copy it again"
        )
    shape = {
        "vocab_size": header.vocab,
        "width": header.width,
        "num_layers": header.layers,
        "num_heads": header.heads,
        "num_kv_heads": header.kv_heads,
        "feed_forward_width": header.hidden,
        "context_length": header.context,
        "tie_embeddings": header.tied,
        "norm_eps": 1e-5,
        "rope_base": 10000.0,
    }
    try:
        config = validate(ModelConfig, shape, str(path))
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error
    heads = {"q_proj": header.heads, "k_proj": header.kv_heads}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        # copy on write, so that a view may be handed to PyTorch
        data = np.memmap(path, dtype=np.uint8, mode="c")
        offset = header.start
        for name, of in header.order():
            size = header.stored_bytes(of)
            if name:
                tensor = _tensor(data[offset : offset + size], of, header.group)
                kind = name.split(".")[-2]
                yield (
                    name,
                    (interleaved_to_half_split(tensor, heads[kind]) if kind in heads else tensor),
                )
            offset += size

    return ForeignModel(config, tensors, None, None, ())


def _tensor(data: np.ndarray, shape: tuple[int, ...], group: int) -> Tensor:
    if not group or len(shape) == 1:
        return torch.from_numpy(data.view("<f4").reshape(shape))
    entries = shape[0] * shape[1]
    scales = data[entries:].view(np.uint8).tobytes()
    scale = torch.frombuffer(bytearray(scales), dtype=torch.float32)
    whole = torch.from_numpy(data[:entries].view(np.int8)).float().view(-1, group)
    return (whole * scale[:, None]).view(shape)


def beyond_llama2c(config: ModelConfig) -> list[str]:
    """List what the format cannot hold of this model, as `key = value (reason)`."""
    return beyond_plain_llama(config, {"norm_eps": 1e-5, "rope_base": 1e4, "rope_scaling": None})


def write_llama2c(path: Path, model: Transformer) -> None:
    """Write the model as version 0 in float32. Raises ModelFolderError, before anything is written,
    for what the format cannot hold.
    """
    config = model.config
    beyond = beyond_llama2c(config)
    if beyond:
        raise ModelFolderError(
            f"llama2.c cannot hold this model: {'; '.join(beyond)}; export it with --to hf or gguf"
        )
    header = Llama2cHeader(
        0,
        config.width,
        config.feed_forward_width,
        config.num_layers,
        config.num_heads,
        config.num_kv_heads,
        config.vocab_size,
        config.context_length,
        tied=config.tie_embeddings,
    )
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    ours = dict(named_tensors(model))
    tables = iter(_rotary_tables(model))
    with path.open("wb") as file:
        _write_legacy_header(file, header)
        for name, _ in header.order():
            tensor = ours[name].detach().cpu().float() if name else next(tables)
            kind = name.split(".")[-2] if name else ""
            if kind in heads:
                tensor = half_split_to_interleaved(tensor, heads[kind])
            file.write(tensor.contiguous().numpy().astype("<f4", copy=False).tobytes())


def _write_legacy_header(file: BinaryIO, header: Llama2cHeader) -> None:
    # A negative vocabulary says that the output matrix is not the embedding's
    vocab = header.vocab if header.tied else -header.vocab
    numbers = (header.width, header.hidden, header.layers, header.heads, header.kv_heads, vocab)
    file.write(struct.pack("<7i", *numbers, header.context))


def _rotary_tables(model: Transformer) -> tuple[Tensor, Tensor]:
    assert model.rotary is not None  # beyond_llama refuses other positions
    return model.rotary.cos.cpu(), model.rotary.sin.cpu()
