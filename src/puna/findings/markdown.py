"""Markdown that shows names as they are: tables, and text and code in which no character is
markup.
"""

import re
from collections.abc import Iterable, Sequence

RULES = {"l": "---", "r": "---:"}


def plain(text: str) -> str:
    """Text in one line that shows as it stands, be it `<b>`, `a|b` or `*`."""
    return re.sub(r"[\\`*\[\]<>|&~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def code(text: str) -> str:
    """Text as code, in a table too."""
    ticks = "``" if "`" in text else "`"
    return ticks + " ".join(text.split()).replace("|", r"\|") + ticks


def table(align: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """align: `l` or `r` for each column. Cells are Markdown."""
    lines = [header, [RULES[side] for side in align], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
