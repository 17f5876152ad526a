"""`puna quantize`: a model in 8 or 4 bits, and what that costs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from puna.cli.generate import ModelFolder
from puna.cli.proof_table import Steps

if TYPE_CHECKING:
    from puna.workflow.quantizing import QuantizedFolder

Treatment = Literal["int8", "int4", "keep"]
WORST = 5


def quantize(
    model: ModelFolder,
    out: Annotated[
        Path,
        typer.Argument(
            help="The model folder to write; it must not exist yet.", show_default=False
        ),
    ],
    to: Annotated[
        Literal["int8", "int4"],
        typer.Option(help="Codes of the matrices inside the layers.", show_default=False),
    ],
    group: Annotated[
        int, typer.Option(help="Weights of a row that share a scale in int4: 32, 64 or 128.")
    ] = 64,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to choose the codes by: a file, a folder, a glob or any other source of"
            " `puna data prepare`, or a prepared data folder; may be given several times.",
            show_default="none: round to nearest",
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out text to measure bits per byte on; may be given several times.",
            show_default="the calibration text's last tenth or validation split, else"
            " python-stdlib",
        ),
    ] = None,
    embedding: Annotated[
        Treatment, typer.Option(help="Codes of the embedding; keep: as it is.")
    ] = "int8",
    head: Annotated[
        Treatment | None,
        typer.Option(help="The same of the output layer.", show_default="as the embedding"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="A matrix that stays as it is, by the end of its name, such as down_proj, or a"
            " layer, such as layers.0; may be given several times.",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        list[str] | None,
        typer.Option(
            help="The same of a matrix or a layer that has 8 bits, with --to int4.",
            show_default=False,
        ),
    ] = None,
    calibration_tokens: Annotated[
        int, typer.Option(help="Tokens to calibrate with at most.", min=2)
    ] = 32_768,
    distil: Annotated[
        bool,
        typer.Option(
            "--distil",
            help="Then train scales and norms on the --calibrate text to predict what the original"
            " does.",
        ),
    ] = False,
    measured_tokens: Annotated[
        int, typer.Option(help="Tokens to measure on at most.", min=2)
    ] = 32_768,
) -> None:
    """Write a model in 8 or 4 bits a weight, and print what that costs.

    A weight becomes a whole number times a scale: in int8 -127 to 127 with a
    scale for each row, in int4 -8 to 7 with a scale for each --group of a row.
    The scale of a group is the one with the smallest squared error. The model
    shrinks to a half or a quarter of 16 bits, and a CPU that waits for memory
    runs it that much faster.

    With --calibrate the codes of a layer are chosen together, so that what the
    layer computes on that text changes least (GPTQ). Give text like that which
    the model will read, a few hundred KB. In int8 it changes next to nothing.
    With --distil all layers then learn together to predict what the original
    does, by their scales and norms, in one pass over that text: in 4 bits most
    of what the rounding cost comes back, for about the time of a pass of
    training.

    OUT is a folder in the layout of compressed-tensors, which transformers
    opens too with --embedding keep. puna.json says how it was made. The model
    is measured before and after on text that was not used to choose codes.

    Examples:

        puna quantize runs/quickstart/model quickstart-int8 --to int8

        puna quantize models/smollm2 smollm2-int4 --to int4 --calibrate docs --distil

        puna quantize runs/quickstart/model small --to int4 --calibrate runs/quickstart/data
    """
    from rich.console import Console

    from puna.cli.work_progress import layers_progress, windows_progress
    from puna.workflow.quantizing import QuantizePlan
    from puna.workflow.quantizing import quantize as run

    plan = QuantizePlan(
        to=to,
        group=group,
        embedding=embedding,
        head=head,
        keep=tuple(keep or ()),
        int8=tuple(int8 or ()),
        calibrate=tuple(calibrate or ()),
        calibration_tokens=calibration_tokens,
        distil=distil,
        measure=tuple(measure or ()),
        measured_tokens=measured_tokens,
    )
    console = Console(stderr=True, markup=False, emoji=False)
    with ExitStack() as stack:
        found = run(
            model,
            out,
            plan,
            on_step=Steps(),
            on_layer=_from_its_first_call(stack, layers_progress(console)),
            on_window=_from_its_first_call(stack, windows_progress(console)),
        )
    _print_layers(found)
    _print_price(f"{out}: {model} in {to}", found)


def _from_its_first_call(
    stack: ExitStack, progress: AbstractContextManager[Callable[[int, int], None]]
) -> Callable[[int, int], None]:
    """Progress that begins when it is called first, so that the time left counts from there; what
    was shown before ends.
    """
    show: Callable[[int, int], None] | None = None

    def run(done: int, total: int) -> None:
        nonlocal show
        if show is None:
            stack.close()
            show = stack.enter_context(progress)
        show(done, total)

    return run


def _print_layers(found: "QuantizedFolder") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Relative squared error", title_justify="left")
    for column in ("part", "matrices", "weights", "outputs"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, errors in found.by_part().items():
        outputs = [error.output for error in errors if error.output is not None]
        table.add_row(
            part,
            str(len(errors)),
            f"{sum(error.weight for error in errors) / len(errors):.2e}",
            f"{sum(outputs) / len(outputs):.2e}" if outputs else "-",
        )
    console = Console(markup=False, emoji=False)
    console.print(table)
    for error in found.worst(WORST):
        outputs_ = "" if error.output is None else f", of its outputs {error.output:.2e}"
        console.print(
            f"worst: {error.name}, {error.weight:.2e} of its weights{outputs_}", highlight=False
        )


def _print_price(title: str, found: "QuantizedFolder") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="right" if column else "left")
    before, after = found.bits_per_byte
    table.add_row(
        "weights on disk",
        f"{found.before / 1e6:,.1f} MB",
        f"{found.after / 1e6:,.1f} MB",
        f"{found.before / found.after:.2f} times less",
    )
    table.add_row(
        "bits a weight",
        f"{8 * found.before / found.parameters:.2f}",
        f"{8 * found.after / found.parameters:.2f}",
        "",
    )
    table.add_row("bits per byte", f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.2%}")
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(
        f"Measured on {found.measured_tokens:,} tokens of {found.measured}.", highlight=False
    )
    if found.kept:
        console.print(f"Kept as they were: {', '.join(found.kept)}.", highlight=False)
    for note in found.notes:
        console.print(f"Note: {note}.", highlight=False)
