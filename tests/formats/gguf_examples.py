"""Small models and vocabularies for the tests of GGUF files, and a file written field by field."""

import functools
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from gguf import GGUFWriter

from puna.formats import gguf_model
from puna.formats.gguf_file import GGUFFile
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.tokenizer.pretokenize import Digits
from puna.tokenizer.tokenizer import Tokenizer

TEXT = (
    "The llama reads 2024 old pages, doesn't it? über naïve 東京 мир 🦙 12345 + 67 = 12412\n\n"
    "def walk(self, node): return [child for child in node]  # tabs\t\there\r\n"
)
SAMPLES = (
    "Hello world",
    " leading and trailing ",
    "2024 + 12345 = 14369, don't you'LL",
    "Ünïcödé 日本語テスト 👩‍👩‍👧 مرحبا ١٢٣ नमस्ते",
    "tabs\t\tand\r\n\r\nlines\n\n   x",
    " " * 200,
    "a\u00a0b\u3000c <|eot_id|> </s> <0x0A>",
    "x" * 70 + "\x00\x01\x7f",
    "",
)


@functools.cache
def tokenizer_of(digits: Digits = "one") -> Tokenizer:
    """A vocabulary of about 350 tokens."""
    return Tokenizer.train([TEXT * 20], 400, digits)


def model_of(**changes: Any) -> Transformer:
    """A model of two layers whose weights leave their mark on the logits."""
    shape = {"width": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_width": 8}
    sizes = {"vocab_size": tokenizer_of().vocab_size, "feed_forward_width": 96}
    config = ModelConfig.model_validate({**shape, **sizes, "context_length": 64, **changes})
    model, generator = build_transformer(config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.2 if parameter.ndim == 2 else 1 + drawn * 0.2)
    return model.eval()


def logits(model: Transformer) -> torch.Tensor:
    """Logits float32 [30, V] of thirty ids."""
    ids = torch.arange(30)[None] * 7 % model.config.vocab_size
    with torch.no_grad():
        return model.float()(ids)[0]


def text(value: str) -> bytes:
    """A string as the format has it."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def row(name: str, shape: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    """A row of the table of tensors; shape in the file's order."""
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, start)


def container(
    *,
    entries: tuple[bytes, ...] = (),
    rows: tuple[bytes, ...] = (),
    data: bytes = b"",
    counts: tuple[int, int] | None = None,
    version: int = 3,
) -> bytes:
    """A file: counts are (tensors, entries) where they should not be those given."""
    head = b"GGUF" + struct.pack("<I", version)
    head += struct.pack("<QQ", *(counts or (len(rows), len(entries))))
    head += b"".join(entries) + b"".join(rows)
    return head + bytes(-len(head) % 32) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    """An entry of the metadata."""
    return text(key) + struct.pack("<I", kind) + value


def written(path: Path, content: bytes) -> Path:
    """The path, with this content."""
    path.write_bytes(content)
    return path


class AnyTokenizer:
    """What a writer asks a tokenizer for, over a tokenizer.json of any kind."""

    def __init__(
        self, definition: dict[str, Any], config: dict[str, Any], *, bos: int | None, eos: int
    ) -> None:
        self._definition = json.dumps(definition)
        self.config = config
        self.bos_id, self.eos_id, self.eot_id, self.end_ids = bos, eos, None, frozenset({eos})
        self._backend = backend_of(definition)

    def to_json(self) -> str:
        return self._definition

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_document(self, text: str) -> list[int]:
        return [*([] if self.bos_id is None else [self.bos_id]), *self.encode(text)]


def backend_of(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    """The library's tokenizer, to which special tokens spelled in a text are text."""
    backend = tokenizers.Tokenizer.from_str(json.dumps(definition))
    backend.encode_special_tokens = True
    return backend


def vocabulary_file(path: Path, metadata: Mapping[str, Any]) -> GGUFFile:
    """A GGUF file with this metadata and no tensors, opened."""
    writer = GGUFWriter(path, "llama")
    for key, value in metadata.items():
        gguf_model._add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFFile(path)
