"""`puna eval`: the scores of a model on text that it has not seen."""

from pathlib import Path
from typing import Annotated

import typer

from puna.cli.generate import Device, ModelFolder


def evaluate(
    model: ModelFolder,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="A prepared data folder, whose validation split is scored; may be given several"
            " times.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to score: a file, a folder, a glob or any other source of `puna data"
            " prepare`; may be given several times.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens a window.", min=1, show_default="as trained")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens from window to window.", min=1, show_default="the window"),
    ] = None,
    mask_documents: Annotated[
        bool | None,
        typer.Option(help="Keep attention inside a document.", show_default="as trained"),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(help="Score at most this many, spread evenly over all of the text.", min=2),
    ] = 2_000_000,
    device: Device = "auto",
) -> None:
    """Score a model on a text: loss, perplexity, bits per byte, beside gzip -9 and xz -9 on
    the same bytes.

    Examples:

        puna eval runs/quickstart/model --data runs/quickstart/data

        puna eval runs/quickstart/model --text README.md --text docs

    With the --max-tokens that is the recipe's train.validation_tokens, --data gives the figure that
    the run gave.
    """
    if (data is None) == (text is None):
        raise typer.BadParameter("give either --data DIR or --text SOURCE")
    from rich.console import Console
    from rich.table import Table

    from puna.eval.bits_per_byte import FORMULA
    from puna.workflow.evaluation import evaluate as evaluate_model

    found = evaluate_model(
        model,
        file=text,
        data=data,
        context=context,
        stride=stride,
        mask_documents=mask_documents,
        max_tokens=max_tokens,
        device=device,
    )
    scored = ", ".join(map(str, text or data or []))
    table = Table(title=f"{model} on {scored}", title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in (
        ("loss, nats per token", f"{found.loss:.4f}"),
        ("perplexity", f"{found.perplexity:.2f}"),
        ("bits per byte", f"{found.bits_per_byte:.4f}"),
        ("gzip -9, bits per byte", f"{found.gzip_bits_per_byte:.4f}"),
        ("xz -9, bits per byte", f"{found.xz_bits_per_byte:.4f}"),
        ("tokens scored", f"{found.targets:,} of {found.all_targets:,}"),
        ("bytes scored", f"{found.bytes:,}"),
    ):
        table.add_row(name, value)
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(
        f"{FORMULA};\nwindows of {found.context} tokens, each moved on by {found.stride}, with"
        f" attention {'inside each document' if found.mask_documents else 'across documents'}.",
        highlight=False,
    )
