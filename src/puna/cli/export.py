"""`puna export`: a model in another program's format, proven by reading it back."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from puna.cli.generate import ModelFolder
from puna.cli.proof_table import Steps, print_proof


def export(
    model: ModelFolder,
    out: Annotated[
        Path,
        typer.Argument(
            help="What to write: a file for gguf, else a folder; it must not exist yet.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Literal["hf", "gguf", "meta", "llama2c", "ollama"],
        typer.Option(help="The format.", show_default=False),
    ],
    type_: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"] | None,
        typer.Option("--type", help="Number format of the weights.", show_default="the model's"),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="Merge this LoRA adapter first: a folder in PEFT's format."),
    ] = None,
) -> None:
    """Write a model for another program, and prove it by reading it back.

    hf       a folder for transformers, vLLM and all that read these, with a
             model card; types f32, f16, bf16

    gguf     one file for llama.cpp, tokenizer and chat template included; types
             f32, f16, bf16, q8_0, q4_0, q4_k_m

    ollama   that file and a Modelfile with template, stops and parameters

    meta     consolidated.00.pth and params.json; types f32, f16, bf16

    llama2c  model.bin for run.c, in f32

    What a format cannot hold is refused with key, value and reason, before
    anything is written. What was written is read back and compared: shape,
    every weight, ids, logits, greedy text. If one is off, nothing stays, and
    the exit code is 1.

    Examples:

        puna export runs/quickstart/model quickstart.gguf --to gguf --type q8_0

        puna export runs/quickstart/model share/quickstart --to hf --type bf16

        puna export models/llama-3.2-1b mine --to ollama --type q4_k_m --adapter my-adapter
    """
    from puna.workflow.exporting import export_model

    written = export_model(
        model,
        out,
        to,
        number_type=type_,
        adapter=adapter,
        on_step=Steps(),
        on_proof=lambda proof: print_proof(f"{out} read back, beside {model}", proof),
    )
    for note in written.notes:
        typer.echo(note)
    typer.echo(f"{out}: {model} for {written.kind} in {written.number_type}")
