"""Export: a model in another program's format, read back through its reader and compared before it
gets its name.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch

from puna.durable import new_file, new_folder, write_json
from puna.errors import ConfigError, ModelFolderError
from puna.formats.gguf_model import write_gguf
from puna.formats.go_template import Chat, go_template
from puna.formats.llama2c import beyond_llama2c, read_llama2c, write_llama2c
from puna.formats.llama2c_vocabulary import write_pieces
from puna.formats.meta_checkpoint import read_meta, write_meta
from puna.formats.meta_params import beyond_meta
from puna.formats.model_card import LICENCE_FILES, model_card
from puna.formats.model_path import open_model
from puna.formats.modelfile import PLAIN, modelfile
from puna.formats.sentencepiece_pieces import pieces_of
from puna.formats.source_kind import read_source
from puna.formats.tiktoken_ranks import meta_vocabulary, special_note
from puna.model.adapters import merge
from puna.model.huggingface import beyond_llama, to_huggingface
from puna.model.transformer import Transformer
from puna.model.weights import read_model, write_model
from puna.tokenizer.chat_layout import role_tokens
from puna.tokenizer.jinja_template import JinjaTemplate
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow.importing import Proven, Steps, provenance_of, reject_present
from puna.workflow.reload_proof import WrittenModel, prove, reject_unproven

Target = Literal["hf", "gguf", "meta", "llama2c", "ollama"]
TARGETS: tuple[Target, ...] = get_args(Target)
WrittenType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]
DTYPES: Mapping[WrittenType, torch.dtype] = MappingProxyType(
    {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
)
GGUF_TYPES: tuple[WrittenType, ...] = get_args(WrittenType)
TYPES: Mapping[Target, tuple[WrittenType, ...]] = MappingProxyType(
    {
        "hf": tuple(DTYPES),
        "gguf": GGUF_TYPES,
        "meta": tuple(DTYPES),
        "llama2c": ("f32",),
        "ollama": GGUF_TYPES,
    }
)
LLAMA2C_FILE, GGUF_FILE = "model.bin", "model.gguf"


@dataclass(frozen=True)
class ExportJob:
    """One export: the opened model, where it came from, the number format to write, the adapter
    that was merged.
    """

    model: Transformer
    tokenizer: Tokenizer
    source: Path
    number_type: WrittenType
    name: str
    adapter: Path | None = None


def export_model(
    model: Path,
    out: Path,
    target: Target,
    *,
    number_type: WrittenType | None = None,
    adapter: Path | None = None,
    on_step: Steps = lambda _: None,
    on_proof: Proven = lambda _: None,
) -> WrittenModel:
    """Write the model at `model` to `out` for another program: a file for gguf, else a folder.

    number_type: of the weights; left out, the model's own (llama2c: f32). adapter: a LoRA adapter
    to merge first. on_step: called with each piece of work; on_proof: with the comparisons. `out`
    appears whole or not at all. Raises ConfigError for a type that the target has not,
    ModelFolderError, naming key, value and reason, for a model that it cannot hold, before anything
    is written, and for a file that reads back as another model.
    """
    if number_type is not None and number_type not in TYPES[target]:
        raise ConfigError(
            f"--to {target} has no type {number_type}: choose one of {', '.join(TYPES[target])}"
        )
    reject_present(out)
    on_step(f"reading {model}")
    opened, tokenizer = open_model(model)
    reject_inexpressible(opened, target)
    if adapter is not None:
        on_step(f"merging {adapter}")
        merge(opened, adapter)
    job = ExportJob(
        opened, tokenizer, model, number_type or _own_type(opened, target), out.stem, adapter
    )
    write, read = _WRITERS[target], _READERS[target]
    place: AbstractContextManager[Path] = new_file(out) if target == "gguf" else new_folder(out)
    with place as aside:
        on_step(f"writing {out}")
        notes = write(aside, job)
        on_step("reading it back and comparing")
        reloaded, other = read(aside, opened)
        proof = prove(opened, reloaded, tokenizer, other, job.number_type)
        on_proof(proof)
        reject_unproven(proof, out)
    return WrittenModel(target, job.number_type, tuple(notes), tuple(proof))


def reject_inexpressible(model: Transformer, target: Target) -> None:
    """Raise ModelFolderError where the target's format has no place for this model; GGUF's writer
    does so itself.
    """
    config = model.config
    beyond = {
        "hf": beyond_llama(config) if to_huggingface(config)["model_type"] == "puna" else [],
        "meta": beyond_meta(config),
        "llama2c": beyond_llama2c(config),
    }.get(target, [])
    if beyond:
        raise ModelFolderError(
            f"--to {target} cannot hold this model: {'; '.join(beyond)}; every command of Puna"
            " takes its folder as it is"
        )


def _own_type(model: Transformer, target: Target) -> WrittenType:
    """The name of the weights' number format, or float32 where the target has no other."""
    dtype = model.output_weight.dtype
    own: WrittenType = next((name for name, known in DTYPES.items() if known == dtype), "f32")
    return own if own in TYPES[target] else "f32"


def _write_hf(aside: Path, job: ExportJob) -> list[str]:
    provenance = {k: v for k, v in provenance_of(job.source).items() if k != "model"}
    if job.adapter is not None:
        provenance["merged"] = {"model": job.source.name, "adapter": job.adapter.resolve().name}
    write_model(
        aside,
        _in_type(job.model, job.number_type),
        bos_id=job.tokenizer.bos_id,
        eos_ids=tuple(sorted(job.tokenizer.end_ids)),
        provenance=provenance,
    )
    job.tokenizer.save(aside)
    kept = ("generation_config.json", *LICENCE_FILES) if job.source.is_dir() else ()
    for pattern in kept:
        for path in filter(Path.is_file, job.source.glob(pattern)):
            shutil.copyfile(path, aside / path.name)
    card = model_card(job.name, job.model.config, job.number_type, provenance, job.source)
    (aside / "README.md").write_text(card, encoding="utf-8")
    return []


def _in_type(model: Transformer, number_type: WrittenType) -> Transformer:
    """The model in this number format: itself, or a copy."""
    dtype = DTYPES[number_type]
    return model if model.output_weight.dtype == dtype else deepcopy(model).to(dtype)


def _write_gguf(aside: Path, job: ExportJob) -> list[str]:
    write_gguf(aside, job.model, job.tokenizer, job.number_type)
    return []


def _write_ollama(aside: Path, job: ExportJob) -> list[str]:
    content = modelfile(
        GGUF_FILE,
        job.tokenizer,
        _go_template(job.tokenizer),
        job.model.config.context_length,
        _generation(job.source),
    )
    notes = _write_gguf(aside / GGUF_FILE, job)
    (aside / "Modelfile").write_text(content, encoding="utf-8")
    return notes


def _write_meta(aside: Path, job: ExportJob) -> list[str]:
    write_meta(aside, job.model, DTYPES[job.number_type])
    _write_text_side(aside, job)
    vocabulary = meta_vocabulary(job.tokenizer)
    if isinstance(vocabulary, str):
        return [f"no tokenizer.model: {vocabulary}; tokenizer.json stands in its place"]
    (aside / "tokenizer.model").write_bytes(vocabulary)
    note = special_note(job.tokenizer)
    return [note] if note else []


def _write_llama2c(aside: Path, job: ExportJob) -> list[str]:
    write_llama2c(aside / LLAMA2C_FILE, job.model)
    _write_text_side(aside, job)
    pieces = pieces_of(job.tokenizer.to_json())
    if isinstance(pieces, str):
        return [f"no tokenizer.bin, so run.c takes no text: {pieces}"]
    write_pieces(aside / "tokenizer.bin", pieces)
    return []


def _write_text_side(aside: Path, job: ExportJob) -> None:
    """The tokenizer, and the ids that the model ends at, for a way back without loss."""
    job.tokenizer.save(aside)
    tokenizer = job.tokenizer
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.end_ids)}
    write_json(aside / "generation_config.json", ends | _generation(job.source))


def _go_template(tokenizer: Tokenizer) -> str:
    """The layout of the model's chats for Ollama."""
    given = tokenizer.config.get("chat_template")
    if not isinstance(given, str):
        return PLAIN
    template = JinjaTemplate(given, "the model's chat template")
    roles = role_tokens(tokenizer.config)

    def render(chat: Chat, answer: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        shared = {"tools": None, "documents": None, "add_generation_prompt": answer}
        (text,) = template.render([{**roles, **shared, "messages": messages}])
        return str(text)

    # Where texts begin with a token, the engine puts it there by itself
    return go_template(render, tokenizer.decode(tokenizer.encode_document("")))


def _generation(model: Path) -> dict[str, Any]:
    try:
        values = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


Read = Callable[[Path, Transformer], tuple[Transformer, Tokenizer | None]]


def _read_hf(aside: Path, _: Transformer) -> tuple[Transformer, Tokenizer | None]:
    return read_model(aside, "cpu", torch.float32), Tokenizer.load(aside)


def _read_gguf(aside: Path, _: Transformer) -> tuple[Transformer, Tokenizer | None]:
    found = read_source(aside / GGUF_FILE if aside.is_dir() else aside, "gguf")
    return found.build("cpu", torch.float32), found.tokenizer


def _read_meta(aside: Path, model: Transformer) -> tuple[Transformer, Tokenizer | None]:
    found = read_meta(aside, model.config.context_length)
    return found.build("cpu", torch.float32), Tokenizer.load(aside)


def _read_llama2c(aside: Path, _: Transformer) -> tuple[Transformer, Tokenizer | None]:
    found = read_llama2c(aside / LLAMA2C_FILE)
    return found.build("cpu", torch.float32), Tokenizer.load(aside)


_WRITERS: Mapping[Target, Callable[[Path, ExportJob], list[str]]] = MappingProxyType(
    {
        "hf": _write_hf,
        "gguf": _write_gguf,
        "meta": _write_meta,
        "llama2c": _write_llama2c,
        "ollama": _write_ollama,
    }
)
_READERS: Mapping[Target, Read] = MappingProxyType(
    {
        "hf": _read_hf,
        "gguf": _read_gguf,
        "meta": _read_meta,
        "llama2c": _read_llama2c,
        "ollama": _read_gguf,
    }
)
