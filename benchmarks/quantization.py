"""The price of few bits: Puna's int8 and int4, rounded, calibrated and distilled, beside
llama.cpp's types of the same model on the same text, in one table.

    python benchmarks/quantization.py MODEL --calibrate TEXT [--measure TEXT]
        [--tokens 16384] [--calibration-tokens 32768] [--group 64] [--quantize LLAMA_QUANTIZE]
        [--types q8_0 q4_0 q4_k_m] [--int8 down_proj] [--name NAME]

The weights of llama.cpp's types are dequantized and run in float32 through the same model, so that
only the rounding of the weights is compared; all matrices of a type are as its file has them,
embedding included, where Puna's is int8. The files are written by Puna, whose blocks are ggml's
formulas; with --quantize PATH llama.cpp's own llama-quantize makes them of an F32 file. bits: of
all matrices, scales included. Prints the table and writes a dated JSON beside the other results.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from machine import RESULTS, machine, today, write_results

from puna.formats.gguf_file import GGUFFile
from puna.formats.gguf_model import write_gguf
from puna.formats.model_path import open_model
from puna.model.transformer import Transformer
from puna.quantization.calibration import EMBEDDING, HEAD, linear_names, quantize_model
from puna.quantization.distillation import distil, original_predictions
from puna.quantization.grid import Grid
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow.calibration_text import calibration_text
from puna.workflow.trainable_states import trainable_states

TYPES = ("q8_0", "q4_0", "q4_k_m")


def main() -> None:
    """Measure the model, then every way to store it."""
    options = _options()
    model, tokenizer = open_model(options.model, "cpu", torch.float32)
    texts = calibration_text(
        tokenizer,
        model.config.context_length,
        calibrate=[options.calibrate],
        calibration_tokens=options.calibration_tokens,
        measure=[options.measure] if options.measure else [],
        measured_tokens=options.tokens,
    )
    lengths = tokenizer.token_lengths()

    def score(found: Transformer) -> float:
        return texts.held_out.score(found, lengths, batch_size=2).bits_per_byte

    predicted = original_predictions(model, texts.windows)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = score(model)
    rows = [_row("float32", 32.0, base, base)]
    with tempfile.TemporaryDirectory() as folder:
        for type_ in options.types:
            path = _gguf(Path(folder), model, tokenizer, type_, options.quantize)
            bits = _bits(path)
            rows.append(_row(f"llama.cpp {type_.upper()}", bits, score(open_model(path)[0]), base))
    outside = [EMBEDDING] + [HEAD] * (model.lm_head is not None)
    four = f"Puna int4, group {options.group}"
    for label, grid, windows, eight in (
        ("Puna int8", Grid(8, 0), None, ()),
        (four, Grid(4, options.group), None, ()),
        (f"{four}, calibrated", Grid(4, options.group), texts.windows, ()),
        *(
            (f"{four}, calibrated, {end} int8", Grid(4, options.group), texts.windows, (end,))
            for end in options.int8
        ),
    ):
        grids = dict.fromkeys(linear_names(model), grid) | dict.fromkeys(outside, Grid(8, 0))
        grids |= {name: Grid(8, 0) for name in grids if name.endswith(eight)}
        model.load_state_dict(original)
        made = quantize_model(model, grids, windows)
        bits = sum(
            error.entries * grids[error.name].stored_bits(made.weights[error.name].codes.shape[1])
            for error in made.errors
        ) / sum(error.entries for error in made.errors)
        rows.append(_row(label, bits, score(model), base))
        if windows is not None:
            distil(model, made, windows, predicted, trainable_states(model))
            rows.append(_row(f"{label}, distilled", bits, score(model), base))
    name = options.name or Path(options.model).stem
    calibrated = Path(options.calibrate).name
    measured = (
        Path(options.measure).name if options.measure else f"what is held out of {calibrated}"
    )
    write_results(
        RESULTS / f"{today()}-quantization-{name}.json",
        machine(torch.device("cpu")),
        model=name,
        measured=f"{len(texts.held_out.targets)} tokens of {measured}",
        calibrated=f"{texts.windows.numel() if texts.windows is not None else 0} tokens of"
        f" {calibrated}",
        rows=rows,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--measure")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--calibration-tokens", type=int, default=32_768)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--int8", nargs="*", default=[], help="ends of names, a row each")
    parser.add_argument("--quantize", help="llama.cpp's llama-quantize")
    parser.add_argument("--types", nargs="*", default=TYPES, choices=TYPES)
    return parser.parse_args()


def _row(name: str, bits: float, found: float, base: float) -> dict[str, object]:
    row = {"weights": name, "bits": bits, "bits per byte": found, "change": found / base - 1}
    print(f"{name:58}  {bits:6.3f} bits  {found:.5f}  {found / base - 1:+.3%}", flush=True)
    return row


def _gguf(
    folder: Path, model: Transformer, tokenizer: Tokenizer, type_: str, program: str | None
) -> Path:
    """The model in this type."""
    path = folder / f"{type_}.gguf"
    if program is None:
        write_gguf(path, model, tokenizer, type_)  # type: ignore[arg-type]
        return path
    whole = folder / "f32.gguf"
    if not whole.exists():
        write_gguf(whole, model, tokenizer, "f32")
    command = [program, str(whole), str(path), type_.upper()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{program} failed: {done.stderr[-500:]}")
    return path


def _bits(path: Path) -> float:
    """Of all matrices of a file."""
    tensors = [tensor for tensor in GGUFFile(path).tensors.values() if len(tensor.shape) == 2]
    entries = sum(tensor.shape[0] * tensor.shape[1] for tensor in tensors)
    return 8 * sum(tensor.num_bytes for tensor in tensors) / entries


if __name__ == "__main__":
    main()
