"""Tables of the plans: columns that line up."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.cells import cell_len

if TYPE_CHECKING:
    from puna.model.accounting import Memory


def padding(text: str, width: int) -> str:
    """The spaces that `text` lacks to `width` cells of a terminal; none if it is wider.

    Usual mistake: padding by `len`, which counts a Chinese character or an emoji as one cell where
    a terminal gives it two, and a combining mark as one where it takes none.
    """
    return " " * (width - cell_len(text))


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Print rows of cells, the first to the left, the others to the right; a row of one cell is a
    line between the others.
    """
    rows = list(rows)
    widths = [
        max((cell_len(cell) for cell in column), default=0)
        for column in zip(*(row for row in rows if len(row) > 1), strict=True)
    ]
    for row in rows:
        first, *others = row
        if others:
            first += padding(first, widths[0])
        typer.echo(
            "  ".join(
                [
                    first,
                    *(
                        padding(cell, width) + cell
                        for cell, width in zip(others, widths[1:], strict=False)
                    ),
                ]
            )
        )


def memory_rows(title: str, memory: "Memory", formats: dict[str, str]) -> list[tuple[str, ...]]:
    """Rows of `print_columns` on memory by part, and its total. formats: words on each part."""
    from puna.number_format import gigabytes

    rows = [
        (f"  {name.replace('_', ' ')} ({formats[name]})", gigabytes(size))
        for name, size in asdict(memory).items()
    ]
    return [(f"\n{title}",), *rows, ("  total", gigabytes(memory.total))]
