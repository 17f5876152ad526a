"""Quantizing: a model folder or a GGUF file becomes a folder of few bits, and the price is measured
on text that the quantization has not seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from puna.durable import new_folder, write_json
from puna.errors import ConfigError, ModelFolderError
from puna.formats.model_path import find_model, is_gguf, open_model
from puna.model.folder_files import WEIGHTS, read_json_object, weight_files
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors, read_model
from puna.quantization.calibration import (
    EMBEDDING,
    HEAD,
    Done,
    MatrixError,
    QuantizedMatrices,
    linear_names,
    quantize_model,
)
from puna.quantization.distillation import distil, original_predictions
from puna.quantization.grid import GROUPS, Grid
from puna.quantization.packed_folder import config_of, copy_others, write_packed
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow.calibration_text import (
    CALIBRATION_TOKENS,
    MEASURED_TOKENS,
    CalibrationText,
    calibration_text,
)
from puna.workflow.importing import Steps, provenance_of, reject_present
from puna.workflow.trainable_states import trainable_states

MEASURED_AT_ONCE = 2  # windows; the logits of one of 512 tokens and 128,000 ids are 260 MB
Kind = Literal["int8", "int4"]
Treatment = Literal["int8", "int4", "keep"]


@dataclass(frozen=True)
class QuantizePlan:
    """Options of a quantization.

    to: codes of the linear layers of the blocks. group: inputs that share a scale in 4 bits.
    embedding, head: of the table and the output layer; head left out, as the embedding. keep: ends
    of the names of modules that stay as they are, such as down_proj, or layers, such as layers.0.
    int8: the same of those that have 8 bits where the others have 4.
    calibrate: sources, or one prepared data folder, whose training split calibrates and whose
    validation split is measured; empty: rounding to nearest. distil: whether scales and norms are
    then trained on that text to predict what the original does. measure: sources.
    """

    to: Kind = "int4"
    group: int = 64
    embedding: Treatment = "int8"
    head: Treatment | None = None
    keep: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
    calibrate: tuple[str, ...] = ()
    calibration_tokens: int = CALIBRATION_TOKENS
    distil: bool = False
    measure: tuple[str, ...] = ()
    measured_tokens: int = MEASURED_TOKENS


@dataclass(frozen=True)
class QuantizedFolder:
    """The price of a quantization. errors: a row a matrix, before a distillation. before, after:
    bytes of the files of the weights. parameters: of the model. bits_per_byte: before and after.
    measured: the text, its tokens. kept: modules that stayed. notes: what to know.
    """

    errors: tuple[MatrixError, ...]
    before: int
    after: int
    parameters: int
    bits_per_byte: tuple[float, float]
    measured: str
    measured_tokens: int
    kept: tuple[str, ...]
    notes: tuple[str, ...]

    def by_part(self) -> dict[str, list[MatrixError]]:
        """The errors of each layer, of the embedding and of the output layer."""
        parts: dict[str, list[MatrixError]] = {}
        for error in self.errors:
            layer, _, rest = error.name.removeprefix("layers.").partition(".")
            parts.setdefault(f"layer {layer}" if rest else error.name, []).append(error)
        return parts

    def worst(self, count: int) -> list[MatrixError]:
        """The matrices with the largest errors of their outputs, or of their weights where there
        is no calibration text.
        """
        return sorted(self.errors, key=lambda e: (e.output or 0.0, e.weight), reverse=True)[:count]


def quantize(
    model: Path,
    out: Path,
    plan: QuantizePlan,
    *,
    on_step: Steps = lambda _: None,
    on_layer: Done = lambda _done, _all: None,
    on_window: Done = lambda _done, _all: None,
) -> QuantizedFolder:
    """Write the model folder `out`: that at `model` with its matrices on a grid of 8 or 4 bits.

    Memory holds the model in float32 twice while it is read back. The folder is read back and
    compared, and appears whole or not at all. Raises ConfigError for a plan that contradicts
    itself, DataError for texts that are too short, ModelFolderError for `out` that is there, a
    model that is quantized already, weights that are not finite and a group that does not divide.
    """
    _check_plan(plan)
    reject_present(out)
    source = find_model(model)
    _reject_quantized(source)
    on_step(f"reading {model}")
    opened, tokenizer = open_model(source)
    dtype = opened.output_weight.dtype
    opened = opened.float()
    grids = _grids(opened, plan)
    texts = calibration_text(
        tokenizer,
        opened.config.context_length,
        calibrate=plan.calibrate,
        calibration_tokens=plan.calibration_tokens,
        measure=plan.measure,
        measured_tokens=plan.measured_tokens,
    )
    lengths = tokenizer.token_lengths()
    on_step(f"measuring it on {texts.name}")
    first = texts.held_out.score(opened, lengths, batch_size=MEASURED_AT_ONCE).bits_per_byte
    on_step("quantizing")
    made = _quantized(opened, grids, texts.windows, plan, on_layer, on_window)
    on_step("measuring again")
    second = texts.held_out.score(opened, lengths, batch_size=MEASURED_AT_ONCE).bits_per_byte
    files = [source] if is_gguf(source) else weight_files(source)
    found = QuantizedFolder(
        errors=made.errors,
        before=sum(path.stat().st_size for path in files),
        after=0,
        parameters=sum(p.numel() for p in opened.parameters()),
        bits_per_byte=(first, second),
        measured=texts.name,
        measured_tokens=len(texts.held_out.targets),
        kept=tuple(name for name in _matrices(opened) if name not in grids),
        notes=tuple(_notes(source, plan, texts, opened)),
    )
    with new_folder(out) as aside:
        on_step(f"writing {out}")
        ends = sorted(tokenizer.end_ids)
        special = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        }
        write_packed(
            aside,
            opened,
            made.weights,
            config=config_of(source, opened, special),
            dtype=dtype,
            provenance=_provenance(source, plan, found, texts, tokenizer),
        )
        if source.is_dir():
            copy_others(source, aside)
        else:
            write_json(aside / "generation_config.json", special)
            tokenizer.save(aside)
        on_step("reading it back and comparing")
        _compare(aside, opened, dtype, out)
        after = (aside / WEIGHTS).stat().st_size
    return replace(found, after=after)


def _quantized(
    model: Transformer,
    grids: Mapping[str, Grid],
    windows: torch.Tensor | None,
    plan: QuantizePlan,
    on_layer: Done,
    on_window: Done,
) -> QuantizedMatrices:
    if windows is None or not plan.distil:
        return quantize_model(model, grids, windows, on_layer)
    original = original_predictions(model, windows)
    made = quantize_model(model, grids, windows, on_layer)
    return distil(model, made, windows, original, trainable_states(model), on_window)


def _check_plan(plan: QuantizePlan) -> None:
    if plan.group not in GROUPS:
        raise ConfigError(
            f"--group {plan.group} is none that kernels know: choose one of"
            f" {', '.join(map(str, GROUPS))}"
        )
    if plan.distil and not plan.calibrate:
        raise ConfigError(
            "--distil trains on a text, and there is none: give it with --calibrate TEXT"
        )
    if plan.int8 and plan.to == "int8":
        raise ConfigError(f"--int8 {plan.int8[0]} is for --to int4: with --to int8 all have 8 bits")
    if min(plan.calibration_tokens, plan.measured_tokens) < 2:
        raise ConfigError("a text has at least 2 tokens: raise the number of tokens")


def _reject_quantized(source: Path) -> None:
    if not source.is_dir():
        return
    values = read_json_object(source, "config.json")
    for key in ("quantization_config", "quantization"):
        if values.get(key):
            method = values[key].get("quant_method") if isinstance(values[key], dict) else ""
            raise ModelFolderError(
                f"{source} is quantized already ({method or key} in its config.json), and rounding"
                " twice loses twice: quantize the model that it was made from"
            )


def _grid(kind: Kind, group: int) -> Grid:
    return Grid(8, 0) if kind == "int8" else Grid(4, group)


def _matrices(model: Transformer) -> list[str]:
    head = [] if model.lm_head is None else [HEAD]
    return [EMBEDDING, *linear_names(model), *head]


def _grids(model: Transformer, plan: QuantizePlan) -> dict[str, Grid]:
    """The grid of each module that does not stay. Raises ConfigError for the end of a name that no
    module has, and for a choice for the output layer where the embedding is it.
    """
    names = _matrices(model)
    if plan.head is not None and model.lm_head is None and plan.head != plan.embedding:
        raise ConfigError(
            f"--head {plan.head}: this model's output layer is its embedding, which is"
            f" {plan.embedding}: leave --head out, or choose --embedding {plan.head}"
        )
    for option, ends in (("--keep", plan.keep), ("--int8", plan.int8)):
        for end in ends:
            if not any(_named(name, [end]) for name in names):
                raise ConfigError(
                    f"{option} {end} names no matrix of this model: give the end of a name such as"
                    f" {', '.join(sorted({name.split('.')[-1] for name in names}))}"
                )
    kinds: dict[str, Treatment] = {
        EMBEDDING: plan.embedding,
        HEAD: plan.head or plan.embedding,
    }
    grids: dict[str, Grid] = {}
    for name in names:
        kind = "int8" if _named(name, plan.int8) else kinds.get(name, plan.to)
        if kind != "keep" and not _named(name, plan.keep):
            grids[name] = _grid(kind, plan.group)
    return grids


def _named(name: str, ends: Iterable[str]) -> bool:
    """True where one of these is the end of a module's name, or its layer."""
    return any(f".{name}".endswith(f".{end}") or name.startswith(f"{end}.") for end in ends)


def _notes(
    source: Path, plan: QuantizePlan, texts: CalibrationText, model: Transformer
) -> list[str]:
    notes = []
    if is_gguf(source):
        notes.append(
            f"the errors are those beside the values in {source.name}, which may be quantized"
            " themselves"
        )
    widest = max(
        model.get_submodule(name).get_parameter("weight").shape[1] for name in linear_names(model)
    )
    if texts.windows is not None and texts.windows.numel() < 4 * widest:
        notes.append(
            f"{texts.windows.numel()} tokens calibrate matrices of {widest} inputs: give a text of"
            f" {4 * widest} or more"
        )
    if plan.to == "int4" and not plan.distil:
        option = "--distil" if plan.calibrate else "--calibrate TEXT, and --distil besides,"
        notes.append(f"{option} would lower the error of 4 bits")
    return notes


def _provenance(
    source: Path,
    plan: QuantizePlan,
    found: QuantizedFolder,
    texts: CalibrationText,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """The entries of puna.json: those of the source, and how this was made."""
    before = provenance_of(source) if source.is_dir() else {}
    calibration: Mapping[str, Any] | None = None
    if texts.windows is not None:
        calibration = {
            "sources": list(plan.calibrate),
            "windows": list(texts.windows.shape),
            "sha256": texts.digest,
        }
    quantized = {
        "model": source.resolve().name,
        "method": "round-to-nearest" if texts.windows is None else "gptq",
        "to": plan.to,
        "group": plan.group if plan.to == "int4" else 0,
        "embedding": plan.embedding,
        "head": plan.head or plan.embedding,
        "keep": list(plan.keep),
        "int8": list(plan.int8),
        "calibration": calibration,
        "distilled": plan.distil,
        "bits_per_byte": list(found.bits_per_byte),
        "measured": {"text": found.measured, "tokens": found.measured_tokens},
        "errors": [
            {key: value for key, value in asdict(error).items() if key != "grid"}
            for error in found.errors
        ],
        "puna_version": version("puna"),
    }
    kept = {key: value for key, value in before.items() if key != "model"}
    return kept | {"tokenizer_hash": tokenizer.hash, "quantized": quantized}


def _compare(folder: Path, model: Transformer, dtype: torch.dtype, out: Path) -> None:
    """Raise ModelFolderError where the folder does not read back as the model."""
    again = dict(named_tensors(read_model(folder)))
    for name, tensor in named_tensors(model):
        if name not in again or not torch.equal(again[name], tensor.to(dtype)):
            raise ModelFolderError(
                f"{name} reads back from {out} as another weight, so nothing was kept: report it"
            )
