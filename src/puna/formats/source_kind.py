"""The kind of a file or folder to import, by its content, and the reader of each kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from puna.errors import ModelFolderError
from puna.formats.foreign_model import ForeignModel
from puna.formats.llama2c import read_header, read_llama2c
from puna.formats.meta_checkpoint import part_files, read_meta
from puna.formats.model_path import is_gguf
from puna.formats.nanogpt import read_nanogpt, refuse_nanochat
from puna.formats.torch_checkpoint import read_checkpoint, state_dict

Kind = Literal["gguf", "meta", "llama2c", "nanogpt", "nanochat"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def source_kind(source: Path) -> Kind:
    """The kind of `source`. Raises ModelFolderError for what is none of them, saying what it looks
    like.
    """
    if source.is_dir():
        return _kind_of_folder(source)
    if not source.is_file():
        raise ModelFolderError(f"there is no file or folder {source} to import")
    if is_gguf(source):
        return "gguf"
    if source.match("consolidated.*.pth") or source.name == "params.json":
        return "meta"
    if read_header(source) is not None:
        return "llama2c"
    with source.open("rb") as file:
        first = file.read(8)
    if first[:2] == b"PK" or first[:1] == b"\x80":
        return _kind_of_checkpoint(source)
    raise ModelFolderError(
        f"{source} is none of the files that can be imported: it begins with {first!r}, is no GGUF"
        " file, no checkpoint of torch.save, and no llama2.c file, whose header would give its"
        " size; copy it again, or name the kind with --from to see what is wrong with it"
    )


def _kind_of_folder(folder: Path) -> Kind:
    if part_files(folder):
        return "meta"
    if (folder / "config.json").is_file():
        raise ModelFolderError(
            f"{folder} is a model folder in Hugging Face's layout, which every command takes as it"
            f" is: try puna generate {folder} 'Hello', or copy it with puna export --to hf"
        )
    inside = sorted(path.name for path in folder.iterdir())[:10]
    raise ModelFolderError(
        f"{folder} is no folder that can be imported: it has no consolidated.00.pth (Meta's) and no"
        f" config.json (Hugging Face's), but {', '.join(inside) or 'nothing'}; name the file"
        " itself, such as model.gguf, model.bin or ckpt.pt"
    )


def _kind_of_checkpoint(source: Path) -> Kind:
    value = read_checkpoint(source)
    if isinstance(value, Mapping) and {"model_args", "model"} <= value.keys():
        return "nanogpt"
    if isinstance(value, Mapping) and "transformer.h.0.attn.c_q.weight" in _bare(value):
        return "nanochat"
    raise ModelFolderError(
        f"{source} is a checkpoint of torch.save, but neither nanoGPT's (model and model_args),"
        " nanochat's, nor a part of Meta's (consolidated.00.pth beside params.json); it holds"
        f" {', '.join(sorted(map(str, value))[:10]) if isinstance(value, Mapping) else 'no names'}"
    )


def _bare(names: Mapping[str, Any]) -> set[str]:
    return {str(name).removeprefix("_orig_mod.") for name in names}


def read_source(source: Path, kind: Kind, context_length: int | None = None) -> ForeignModel:
    """The model of `source`, read as this kind. context_length: of a Meta checkpoint, which does
    not say it. Raises ModelFolderError or TokenizerError.
    """
    if not source.exists():
        raise ModelFolderError(f"there is no file or folder {source} to import")
    if kind == "gguf":
        from puna.formats.gguf_model import read_gguf

        return read_gguf(source)
    if kind == "meta":
        return read_meta(source if source.is_dir() else source.parent, context_length)
    if source.is_dir():
        raise ModelFolderError(f"{source} is a folder: name the {kind} file in it")
    if kind == "llama2c":
        return read_llama2c(source)
    value = read_checkpoint(source)
    if kind == "nanochat":
        refuse_nanochat(source, state_dict(value, source))
    if not isinstance(value, Mapping) or not {"model_args", "model"} <= value.keys():
        raise ModelFolderError(f"{source} is no nanoGPT checkpoint: it has no model and model_args")
    return read_nanogpt(source, value)
