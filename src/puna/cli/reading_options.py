"""The options that every command which reads text shares."""

from typing import Annotated, Literal

import typer

_PANEL = "Reading"

TextField = Annotated[
    str,
    typer.Option(
        help=(
            "The key or column that holds the text; message.content goes into nested ones,"
            " title,body joins several."
        ),
        rich_help_panel=_PANEL,
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        help=(
            "What ends a document inside a plain file: line, blank-lines, a mark such as"
            " '<|endoftext|>', or a text that is a line of its own, such as %."
        ),
        show_default="a file is a document",
        rich_help_panel=_PANEL,
    ),
]
Normalize = Annotated[
    Literal["bom", "lf", "none"],
    typer.Option(
        help=(
            "bom drops the byte order mark of a file, lf makes CRLF and CR a line feed too, none"
            " keeps both."
        ),
        rich_help_panel=_PANEL,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        help="Read only files with this ending, such as .md; may be given several times.",
        show_default="all",
        rich_help_panel=_PANEL,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave files with this ending out; may be given several times.",
        show_default="none",
        rich_help_panel=_PANEL,
    ),
]
MaxDocuments = Annotated[
    int | None,
    typer.Option(
        help="Stop after this many documents.", show_default="all of them", rich_help_panel=_PANEL
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Stop at the first bad file or row.", rich_help_panel=_PANEL),
]
BadShare = Annotated[
    float,
    typer.Option(
        help="Share of bad files and rows that is passed over; ten always are.",
        min=0,
        max=1,
        rich_help_panel=_PANEL,
    ),
]
