"""`puna import`: another program's file becomes a model folder, and proves it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from puna.cli.proof_table import Steps, print_proof

SourceKind = Literal["gguf", "meta", "llama2c", "nanogpt", "nanochat"]


def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .gguf file, a folder with consolidated.00.pth and params.json, a llama2.c .bin,"
            " or a nanoGPT ckpt.pt.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="The model folder to write; it must not exist yet.", show_default=False
        ),
    ],
    kind: Annotated[
        SourceKind | None,
        typer.Option("--from", help="The kind of SOURCE.", show_default="by its content"),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="A tokenizer's folder or file, or none to write the model without.",
            show_default="in SOURCE or beside it",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Longest context of a Meta checkpoint, which does not say it.",
            min=1,
            max=1 << 20,
            show_default="of the published LLaMA with these numbers",
        ),
    ] = None,
) -> None:
    """Make a model folder of another program's file.

    The weights keep their values and number format; quantized ones become
    float32. Rotary rows are reordered where the source interleaves them. The
    folder is read back and compared with the source before it gets its name,
    and puna.json remembers source, SHA-256 and date. Pickles are opened by an
    unpickler that knows tensors only; one that asks for more is refused.

    Examples:

        puna import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2

        puna import Llama-3.2-1B/original models/llama-3.2-1b --context 131072

        puna import stories15M.bin models/stories --tokenizer tokenizer.model

        puna import out/ckpt.pt models/nanogpt --tokenizer gpt2/tokenizer.json
    """
    from puna.workflow.importing import import_model as run

    steps = Steps()
    written = run(
        source,
        out,
        kind=kind,
        tokenizer=tokenizer,
        context_length=context,
        on_step=steps,
        on_proof=lambda proof: print_proof(f"{out} read back, beside {source}", proof),
    )
    for note in written.notes:
        typer.echo(note)
    typer.echo(f"{out}: {source} ({written.kind}) in {written.number_type}")
