"""Import: another program's file becomes a model folder, which is read back and compared before it
gets its name.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from puna.durable import new_folder
from puna.errors import ModelFolderError, TokenizerError
from puna.formats.foreign_model import ForeignModel
from puna.formats.llama2c_vocabulary import read_vocabulary
from puna.formats.meta_checkpoint import part_files
from puna.formats.meta_params import FILE as PARAMS
from puna.formats.source_kind import Kind, read_source, source_kind
from puna.model.weights import read_model, write_model
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow.reload_proof import ReloadCheck, WrittenModel, prove, reject_unproven

NO_TOKENIZER = "none"
"""In the place of a tokenizer's path: write the model without one."""

Steps = Callable[[str], None]
Proven = Callable[[list[ReloadCheck]], None]


def import_model(
    source: Path,
    out: Path,
    *,
    kind: Kind | None = None,
    tokenizer: Path | None = None,
    context_length: int | None = None,
    on_step: Steps = lambda _: None,
    on_proof: Proven = lambda _: None,
) -> WrittenModel:
    """Write the model folder `out` from `source`: a GGUF file, a folder of Meta's, a llama2.c file,
    a nanoGPT checkpoint.

    kind: left out, recognised by content. tokenizer: a path, or "none"; left out, the one in the
    source or beside it. context_length: of a Meta checkpoint, which does not say it. on_step:
    called with each piece of work; on_proof: with the comparisons. Weights keep their number
    format. `out` appears whole or not at all. Raises ModelFolderError or TokenizerError.
    """
    reject_present(out)
    kind = kind or source_kind(source)
    on_step(f"reading {source} ({kind})")
    found = read_source(source, kind, context_length)
    vocabulary, origin = _tokenizer(source, kind, found, tokenizer)
    if vocabulary is not None and vocabulary.vocab_size > found.config.vocab_size:
        raise TokenizerError(
            f"{origin} has {vocabulary.vocab_size} ids, but the model's embedding"
            f" {found.config.vocab_size} rows: give its own tokenizer with --tokenizer PATH, or"
            f" --tokenizer {NO_TOKENIZER}"
        )
    on_step("hashing the source")
    imported = _provenance(source, kind)
    model = found.build()
    # What the file says of its own vocabulary counts over the names in it
    own = vocabulary is None or vocabulary is found.tokenizer
    ends = found.eos_ids if own and found.eos_ids else _ends(vocabulary)
    with new_folder(out) as aside:
        on_step(f"writing {out}")
        write_model(
            aside,
            model,
            bos_id=found.bos_id if vocabulary is None else vocabulary.bos_id,
            eos_ids=ends,
            provenance={
                "imported": imported,
                **({} if vocabulary is None else {"tokenizer_hash": vocabulary.hash}),
            },
        )
        if vocabulary is not None:
            vocabulary.save(aside)
        on_step("reading it back and comparing")
        reloaded = read_model(aside, "cpu", torch.float32)
        other = None if vocabulary is None else Tokenizer.load(aside)
        proof = prove(model, reloaded, vocabulary, other, "f32", frozenset(ends))
        on_proof(proof)
        reject_unproven(proof, out)
    notes = (
        ("it has no tokenizer: copy tokenizer.json into it, or import with --tokenizer PATH",)
        if vocabulary is None
        else (f"tokenizer: {origin}",)
    )
    number_type = str(model.output_weight.dtype).removeprefix("torch.")
    return WrittenModel(kind, number_type, notes, tuple(proof))


def reject_present(out: Path) -> None:
    """Raise ModelFolderError where something has the name `out` already."""
    if out.exists() or out.is_symlink():
        raise ModelFolderError(
            f"{out} is there already, and is not overwritten: name a path that does not exist, or"
            " remove it first"
        )


def _ends(vocabulary: Tokenizer | None) -> tuple[int, ...]:
    return () if vocabulary is None else tuple(sorted(vocabulary.end_ids))


def _tokenizer(
    source: Path, kind: Kind, found: ForeignModel, given: Path | None
) -> tuple[Tokenizer | None, str]:
    """The tokenizer to write, and the place that it comes from."""
    if given is not None:
        return (None, "") if str(given) == NO_TOKENIZER else (_load(given, found), str(given))
    if found.tokenizer is not None:
        return found.tokenizer, str(source)
    folder = source if source.is_dir() else source.parent
    beside = [folder / "tokenizer.json"]
    if kind == "meta":  # Llama 2's parts lie one folder below
        beside += [folder / "tokenizer.model", folder.parent / "tokenizer.model"]
    if kind == "llama2c":
        beside.append(folder / "tokenizer.bin")
    for path in beside:
        if path.is_file():
            return _load(path, found), str(path)
    return None, ""


def _load(path: Path, found: ForeignModel) -> Tokenizer:
    if path.suffix == ".bin":
        return read_vocabulary(path, found.config.vocab_size)
    try:
        return Tokenizer.load(path)
    except TokenizerError as error:
        raise TokenizerError(
            f"{error}; or import without it: --tokenizer {NO_TOKENIZER}"
        ) from error


def _provenance(source: Path, kind: Kind) -> dict[str, Any]:
    """The entry of puna.json that says where the weights come from."""
    return {
        "kind": kind,
        "source": source.resolve().name,
        "sha256": dict(_digests(source, kind)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "puna_version": version("puna"),
        "torch_version": torch.__version__,
    }


def _digests(source: Path, kind: Kind) -> Iterator[tuple[str, str]]:
    folder = source if source.is_dir() else source.parent
    for path in [folder / PARAMS, *part_files(folder)] if kind == "meta" else [source]:
        with path.open("rb") as file:
            yield path.name, hashlib.file_digest(file, "sha256").hexdigest()


def provenance_of(model: Path) -> dict[str, Any]:
    """The values of a model folder's puna.json; none of a model from elsewhere."""
    try:
        values = json.loads((model / "puna.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
