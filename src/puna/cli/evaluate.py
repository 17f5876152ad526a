"""`puna eval`: the scores of a model on text that it has not seen."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puna.cli.evaluate_tasks import (
    Asked,
    ask_harness,
    ask_questions,
    ask_tasks,
    check_output,
    listed,
    write_record,
)
from puna.cli.generate import Device, ModelFolder

if TYPE_CHECKING:
    from puna.workflow.evaluation import Evaluation


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
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="With --data, also measure baselines that first read its training split.",
        ),
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A shipped task, several with commas, or all; may be given several times.",
            show_default=False,
        ),
    ] = None,
    harness: Annotated[
        list[str] | None,
        typer.Option(
            help="The same through lm-evaluation-harness: a shipped task or one of its own.",
            show_default=False,
        ),
    ] = None,
    multiple_choice: Annotated[
        list[Path] | None,
        typer.Option(
            help='Questions as JSON lines: {"context": "...", "choices": ["...", "..."],'
            ' "answer": 0}.',
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask the first so many of each task.", min=1)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the shipped tasks' documents.", min=0, show_default="the task's"),
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask the harness's tasks in a chat.")
    ] = False,
    num_fewshot: Annotated[
        int | None,
        typer.Option(help="Examples before each of the harness's documents.", min=0),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this JSON file.", show_default=False)
    ] = None,
    device: Device = "auto",
) -> None:
    """Score a model on a text: loss, perplexity, bits per byte, beside gzip -9 and xz -9 on
    the same bytes; or on tasks and questions.

    Examples:

        puna eval runs/quickstart/model --data runs/quickstart/data

        puna eval runs/quickstart/model --data runs/quickstart/data --baselines

        puna eval runs/quickstart/model --text README.md --text docs

        puna eval runs/quickstart/model --task all --output results.json

        puna eval runs/quickstart/model --harness puna_sums,puna_copy --limit 50

    With the --max-tokens that is the recipe's train.validation_tokens, --data gives the figure that
    the run gave.
    """
    ways = {
        "--data": data,
        "--task": task,
        "--harness": harness,
        "--multiple-choice": multiple_choice,
    }
    way = _only_way(ways, text)
    _reject_unused(
        way,
        {
            "--context": context,
            "--stride": stride,
            "--mask-documents": mask_documents,
            "--baselines": baselines or None,
            "--limit": limit,
            "--seed": seed,
            "--chat-template": chat_template or None,
            "--num-fewshot": num_fewshot,
        },
    )
    if output is not None:
        check_output(output)
    asked = Asked(str(model), device, limit, seed, tuple(text or ()), output)
    if task is not None:
        ask_tasks(asked, listed(task))
    elif harness is not None:
        ask_harness(asked, listed(harness), chat_template, num_fewshot)
    elif multiple_choice is not None:
        ask_questions(asked, multiple_choice)
    else:
        from puna.workflow.evaluation import evaluate as evaluate_model

        found = evaluate_model(
            model,
            file=text,
            data=data,
            context=context,
            stride=stride,
            mask_documents=mask_documents,
            max_tokens=max_tokens,
            baselines=baselines,
            device=device,
        )
        scored = ", ".join(map(str, text or data or []))
        _print_scores(f"{model} on {scored}", found)
        if output is not None:
            write_record(output, {"model": str(model), "scored": scored, **asdict(found)})


def _only_way(ways: Mapping[str, object], text: list[str] | None) -> str:
    """The one way of scoring that was asked for; --text is one by itself, and goes with tasks."""
    given = [way for way, value in ways.items() if value is not None]
    if not given and text is not None:
        return "--text"
    if len(given) != 1 or (text is not None and given[0] not in ("--task", "--harness")):
        raise typer.BadParameter(
            f"give --text SOURCE or one of {', '.join(ways)}; beside --task and --harness, --text"
            " is for a task that scores it"
        )
    return given[0]


def _reject_unused(way: str, options: Mapping[str, object]) -> None:
    """Reject an option that would change nothing."""
    ways = {
        "--limit": ("--task", "--harness", "--multiple-choice"),
        "--seed": ("--task", "--harness"),
        "--chat-template": ("--harness",),
        "--num-fewshot": ("--harness",),
        "--baselines": ("--data",),
    }
    for option, value in options.items():
        wanted = ways.get(option, ("--text", "--data"))
        if value is not None and way not in wanted:
            raise typer.BadParameter(
                f"{option} goes with {' and '.join(wanted)}, and changes nothing beside {way}:"
                " leave it out"
            )


def _print_scores(title: str, found: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    from puna.eval.bits_per_byte import FORMULA
    from puna.number_format import part_in_megabytes

    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    primed = found.primed.bits_per_byte if found.primed else {}
    for name, value in (
        ("loss, nats per token", f"{found.loss:.4f}"),
        ("perplexity", f"{found.perplexity:.2f}"),
        ("bits per byte", f"{found.bits_per_byte:.4f}"),
        ("gzip -9, bits per byte", f"{found.gzip_bits_per_byte:.4f}"),
        ("xz -9, bits per byte", f"{found.xz_bits_per_byte:.4f}"),
        *((f"primed {name}, bits per byte", f"{value:.4f}") for name, value in primed.items()),
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
    if found.primed is not None:
        read = part_in_megabytes(found.primed.read_bytes, found.primed.all_bytes)
        console.print(
            f"Primed baselines have read {read} of the training text first.", highlight=False
        )
    if found.kept != 1.0:
        console.print(
            f"The tokenizer loses text: its tokens stand for {found.kept:.2%} of the text's bytes,"
            " and bits per byte counts all of them.",
            highlight=False,
        )
