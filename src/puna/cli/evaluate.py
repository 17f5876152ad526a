"""`puna eval`: what a model is worth on text that it has not seen."""

from pathlib import Path
from typing import Annotated

import typer

from puna.cli.generate import Device, ModelFolder
from puna.errors import DataError


def evaluate(
    model: ModelFolder,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A prepared data folder; its validation split is scored.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text file, UTF-8.", show_default=False)
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens a window.", min=1, show_default="the model's context")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens from window to window.", min=1, show_default="the window"),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Score at most this many tokens.", min=2)
    ] = 2_000_000,
    device: Device = "auto",
) -> None:
    """Score a model on held-out text: loss, perplexity, bits per byte, beside gzip -9 and xz -9 on
    the same bytes.

    Examples:

        puna eval runs/quickstart/model --data runs/quickstart/data

        puna eval runs/quickstart/model --text README.md
    """
    if (data is None) == (text is None):
        raise typer.BadParameter("give either --data DIR or --text FILE")
    from rich.console import Console
    from rich.table import Table

    from puna.eval.bits_per_byte import FORMULA, score_tokens
    from puna.eval.held_out import held_out_tokens, text_tokens
    from puna.eval.yardsticks import gzip_bits_per_byte, xz_bits_per_byte
    from puna.inference.language_model import load

    loaded = load(model, device)
    ids = (
        text_tokens(text, loaded.tokenizer)
        if text
        else held_out_tokens(data or Path(), loaded.tokenizer, max_tokens)
    )
    window = context or loaded.model.config.context_length
    if window > loaded.model.config.context_length:
        raise DataError(
            f"--context {window} exceeds the model's context of"
            f" {loaded.model.config.context_length}"
        )
    if stride is not None and stride > window:
        raise DataError(f"--stride {stride} exceeds the window of {window}")
    ids = ids[:max_tokens]
    raw = loaded.tokenizer.decode_bytes(ids.tolist(), skip_special=True)
    step = stride or window
    score = score_tokens(
        loaded.model, ids, loaded.tokenizer.token_lengths(), context=window, stride=step
    )
    table = Table(title=f"{model} on {text or data}", title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in (
        ("loss, nats per token", f"{score.loss:.4f}"),
        ("perplexity", f"{score.perplexity:.2f}"),
        ("bits per byte", f"{score.bits_per_byte:.4f}"),
        ("gzip -9, bits per byte", f"{gzip_bits_per_byte(raw):.4f}"),
        ("xz -9, bits per byte", f"{xz_bits_per_byte(raw):.4f}"),
        ("tokens scored", f"{score.tokens:,}"),
        ("bytes scored", f"{score.bytes:,}"),
    ):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(
        f"{FORMULA};\nwindows of {window} tokens, each moved on by {step}.", highlight=False
    )
