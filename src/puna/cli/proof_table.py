"""The output of `puna import` and `puna export`: each step with its time, and the comparison of the
file with the model that it was written from.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from puna.workflow.reload_proof import ReloadCheck


class Steps:
    """Prints each piece of work on standard error as it begins, with the seconds since the
    first.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, step: str) -> None:
        typer.echo(f"{time.monotonic() - self._started:6.1f} s  {step}", err=True)


def print_proof(title: str, proof: Sequence["ReloadCheck"]) -> None:
    """Print the comparisons as a table."""
    typer.echo(title)
    width = max(len(row.name) for row in proof)
    words = {True: "ok", False: "OFF", None: "-"}
    for row in proof:
        allowed = f" (allowed {row.allowed})" if row.allowed else ""
        typer.echo(f"  {words[row.holds]:3} {row.name:{width}}  {row.found}{allowed}")
