"""The path that a command takes as its model: a model folder, or a GGUF file as it is.

No torch until a model is opened, so that a process which only needs its tokenizer stays small.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from puna.errors import ModelFolderError, TokenizerError
from puna.model.folder_files import model_folder
from puna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from puna.model.transformer import Transformer


def is_gguf(path: Path) -> bool:
    """True for a file that begins as GGUF does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def find_model(path: Path | str) -> Path:
    """The GGUF file or the model folder itself, or the newest snapshot where `path` is a folder of
    the hub's cache. Raises ModelFolderError for another file, or where there is nothing.
    """
    path = Path(path)
    if is_gguf(path):
        return path
    if path.is_file():
        from puna.formats.source_kind import source_kind

        raise ModelFolderError(
            f"{path} is a file of the kind {source_kind(path)}, and only GGUF files are opened as"
            f" they are: make a model folder of it with puna import {path} OUT"
        )
    return model_folder(path)


def open_model(
    path: Path | str, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None
) -> "tuple[Transformer, Tokenizer]":
    """The model at `path` on `device`, in evaluation mode, and its tokenizer; dtype left out: as in
    the file. Raises ModelFolderError or TokenizerError.
    """
    path = find_model(path)
    if is_gguf(path):
        from puna.formats.gguf_model import read_gguf

        found = read_gguf(path)
        return found.build(device, dtype), _held(path, found.tokenizer)
    return open_weights(path, device, dtype), Tokenizer.load(path)


def open_weights(
    path: Path | str, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None
) -> "Transformer":
    """The model of `open_model` alone."""
    from puna.model.weights import read_model

    path = find_model(path)
    if is_gguf(path):
        from puna.formats.gguf_model import read_gguf

        return read_gguf(path).build(device, dtype)
    return read_model(path, device, dtype)


def open_shape(path: Path | str) -> "Transformer":
    """The model of `open_weights` on "meta", without its weights. Raises ModelFolderError."""
    from puna.formats.gguf_model import read_gguf
    from puna.model.transformer import build_transformer
    from puna.model.weights import read_config

    path = find_model(path)
    return build_transformer(read_gguf(path).config if is_gguf(path) else read_config(path), "meta")


def read_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a model folder, of a tokenizer's own file, or of a GGUF file."""
    path = Path(path)
    if not is_gguf(path):
        return Tokenizer.load(path)
    from puna.formats.gguf_file import GGUFFile
    from puna.formats.gguf_vocabulary import read_vocabulary

    vocabulary = read_vocabulary(GGUFFile(path))
    return _held(path, None if vocabulary is None else vocabulary.tokenizer())


def written_at(path: Path | str) -> int:
    """Time at which the model at `path` was written, in seconds since 1970."""
    path = Path(path)
    return int((path if path.is_file() else path / "config.json").stat().st_mtime)


def _held(path: Path, tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise TokenizerError(
            f"{path} holds no tokenizer: import it with puna import {path} OUT --tokenizer PATH"
        )
    return tokenizer
