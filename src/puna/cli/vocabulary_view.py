"""Output of `puna tokenizer inspect`, the facts of a vocabulary and a text cut into its tokens, and
the sentence of any command on a vocabulary that loses text.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from puna.tokenizer.tokenizer import Tokenizer

_LONGEST_SHOWN = 12
_LONGEST_WIDTH = 40
_TOKEN_STYLES = (
    "black on bright_cyan",
    "black on bright_yellow",
    "black on bright_green",
    "black on bright_magenta",
)


def loaded_tokenizer(path: Path) -> "Tokenizer":
    """Load a tokenizer, and say on standard error what texts it does not give back, if any."""
    from puna.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    say_loss(tokenizer)
    return tokenizer


def say_loss(tokenizer: "Tokenizer") -> None:
    """Say on standard error what texts the tokenizer does not give back, if any."""
    import typer

    if tokenizer.loss is not None:
        typer.echo(tokenizer.loss, err=True)


def print_vocabulary(console: "Console", tokenizer: "Tokenizer") -> None:
    """Print size, digits, hash, special tokens and the longest tokens of a vocabulary."""
    from rich.table import Table
    from rich.text import Text

    lengths = tokenizer.token_lengths()
    longest = sorted(range(tokenizer.vocab_size), key=lambda id_: (-lengths[id_], id_))[
        :_LONGEST_SHOWN
    ]
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("vocabulary", f"{tokenizer.vocab_size:,} tokens")
    facts.add_row("digits", tokenizer.digits or "a pattern of its own")
    facts.add_row("hash", tokenizer.hash[:12])
    facts.add_row(
        "special",
        Text("\n").join(Text(f"{id_} {name}") for name, id_ in tokenizer.special_tokens.items()),
    )
    for id_ in longest:
        drawn = Text(_visible(tokenizer.token_bytes(id_)))
        drawn.truncate(_LONGEST_WIDTH + 1, overflow="ellipsis")
        facts.add_row(
            "longest" if id_ == longest[0] else "",
            Text(f"{lengths[id_]} bytes  ").append_text(drawn),
        )
    console.print(facts)


def print_cut(console: "Console", tokenizer: "Tokenizer", text: str) -> None:
    """Print a text cut into its tokens, and the bytes per token."""
    ids = tokenizer.encode(text)
    size = len(text.encode("utf-8"))
    ratio = f", {size / len(ids):.3f} bytes per token" if ids else ""
    console.print()
    console.print(
        _side_by_side([tokenizer.token_bytes(id_) for id_ in ids], console.color_system is not None)
    )
    console.print(f"{size:,} bytes, {len(ids):,} tokens{ratio}", highlight=False)


def _side_by_side(pieces: list[bytes], in_colour: bool) -> "Text":
    """The pieces in a row, told apart by colour or else by bars; every line break of the text
    starts a new line.
    """
    from rich.text import Text

    drawn = Text()
    for number, piece in enumerate(pieces):
        drawn.append(_visible(piece), style=_TOKEN_STYLES[number % len(_TOKEN_STYLES)])
        if piece.endswith(b"\n"):
            drawn.append("\n")
        elif not in_colour and number < len(pieces) - 1:
            drawn.append("|")
    return drawn


def _visible(piece: bytes) -> str:
    """The characters of a token, white space drawn, and stray bytes and control characters as
    <XX>.
    """
    marks = {" ": "·", "\t": "→", "\n": "⏎", "\r": "␍"}
    shown = []
    for character in piece.decode("utf-8", errors="surrogateescape"):
        if character in marks:
            shown.append(marks[character])
        elif character.isprintable():
            shown.append(character)
        else:
            raw = character.encode("utf-8", errors="surrogateescape")
            shown.append("".join(f"<{byte:02X}>" for byte in raw))
    return "".join(shown)
