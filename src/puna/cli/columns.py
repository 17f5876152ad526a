"""Tables of the plans: columns that line up."""

from collections.abc import Iterable, Sequence

import typer


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Print rows of cells, the first to the left, the others to the right; a row of one cell is a
    line between the others.
    """
    rows = list(rows)
    widths = [
        max((len(cell) for cell in column), default=0)
        for column in zip(*(row for row in rows if len(row) > 1), strict=True)
    ]
    for row in rows:
        first, *others = row
        if others:
            first = first.ljust(widths[0])
        typer.echo(
            "  ".join(
                [
                    first,
                    *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False)),
                ]
            )
        )
