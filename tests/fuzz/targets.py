"""The parsers of files from outside: valid files to start from, and the call that reads one.

Whatever the bytes, a parser gives a value or one PunaError; anything else is a finding.
"""

import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from puna.formats.llama2c import read_llama2c, write_llama2c
from puna.formats.llama2c_vocabulary import read_pieces, write_pieces
from puna.formats.meta_checkpoint import read_meta, write_meta
from puna.formats.meta_params import FILE as PARAMS
from puna.formats.sentencepiece_pieces import normal_piece, special_pieces
from puna.formats.source_kind import read_source, source_kind
from puna.formats.torch_checkpoint import read_checkpoint, state_dict
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Target:
    """seeds: writes valid files into a folder. read: reads one, whose name is `name`."""

    name: str
    seeds: Callable[[Path], None]
    read: Callable[[Path], object]


def model() -> Transformer:
    """A model of two layers in 3 kB."""
    sizes = {"vocab_size": 12, "width": 8, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    config = ModelConfig.model_validate({**sizes, "feed_forward_width": 8, "context_length": 8})
    built = build_transformer(config).eval()
    init_weights(built, 0)
    return built


def _llama2c(folder: Path) -> None:
    write_llama2c(folder / "legacy", model())
    header = struct.pack("<Ii7iB", 0x616B3432, 1, 8, 8, 1, 2, 1, 4, 8, 1).ljust(256, b"\0")
    entries = 8 + 8 + 8 + 4 * 8 + 2 * 64 + 2 * 32 + 3 * 64
    (folder / "version1").write_bytes(header + bytes(4 * entries))


def _checkpoint(folder: Path) -> None:
    torch.save({"a": torch.ones(3, 4), "b": torch.ones(2).half()}, folder / "tensors")
    torch.save({"model": {}, "model_args": {"n_layer": 1, "n_head": 1}}, folder / "nanogpt")


def _meta(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        write_meta(Path(made), model())
        for file in Path(made).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())


def _params(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        write_meta(Path(made), model())
        (folder / "params").write_bytes((Path(made) / PARAMS).read_bytes())


def _read_params(path: Path) -> object:
    """The fuzzed params.json beside whole weights."""
    weights = path.with_name("consolidated.00.pth")
    if not weights.exists():
        kept = path.read_bytes()
        write_meta(path.parent, model())
        path.write_bytes(kept)
    return read_meta(path.parent).build()


def _pieces(folder: Path) -> None:
    write_pieces(folder / "pieces", [*special_pieces(), normal_piece("ab", -1.0)])


def _any(path: Path) -> object:
    return read_source(path, source_kind(path)).build()


def _gguf(folder: Path) -> None:
    from puna.formats.gguf_model import write_gguf

    tokenizer = Tokenizer.train(["the llama reads " * 20], 280)
    built = build_transformer(
        model().config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    )
    init_weights(built, 0)
    write_gguf(folder / "f32", built.eval(), tokenizer, "f32")


def _tokenizer(folder: Path) -> None:
    text = Tokenizer.train(["the llama reads " * 20], 270).to_json()
    (folder / "tokenizer").write_text(json.dumps(json.loads(text)))


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "llama2c": Target("model.bin", _llama2c, lambda path: read_llama2c(path).build()),
        "checkpoint": Target(
            "ckpt.pt", _checkpoint, lambda path: state_dict(read_checkpoint(path), path)
        ),
        "source": Target("file", _checkpoint, _any),
        "params": Target(PARAMS, _params, _read_params),
        "pieces": Target("tokenizer.bin", _pieces, lambda path: list(read_pieces(path, 260))),
        "gguf": Target("model.gguf", _gguf, _any),
        "tokenizer": Target("tokenizer.json", _tokenizer, Tokenizer.load),
    }
)
