"""The options that every command which runs a model shares, and what each of them says about the
native core.
"""

from typing import Annotated, Literal

import typer

from puna.native import library

Isa = Annotated[
    library.Isa,
    typer.Option(
        help=(
            "On a CPU: a tier of the native core, or torch; auto takes the fastest that runs the"
            " model (puna doctor lists them)."
        )
    ),
]
Weights = Annotated[
    Literal["auto", "float32", "bfloat16", "int8", "int4"],
    typer.Option(
        help=(
            "Format of the matrices in the native core; auto: as they are stored. int8 and int4"
            " are rounded to the nearest: puna quantize loses less."
        )
    ),
]
KVCacheDtype = Annotated[
    Literal["auto", "int8"],
    typer.Option(
        help=(
            "Format of keys and values; auto: that of the model's arithmetic. int8 takes about half"
            " of bfloat16's memory, and rounds."
        )
    ),
]


def say_passed_over(isa: str, *devices: str) -> None:
    """Say on standard error which tiers of the native core are damaged, and passed over for another
    one or PyTorch, where this command chose among them: `isa` "auto", and a model on the CPU.
    """
    from puna.native.library import passed_over

    for sentence in passed_over() if isa == "auto" and "cpu" in devices else ():
        typer.echo(sentence, err=True)
