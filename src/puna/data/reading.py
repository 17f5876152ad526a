"""Options that decide the documents of a source: the text column, the border between documents, the
form of the text, and the endings of the files.

What it is not: no tolerance of damage is stated here (`left_out.py`), because damage that is passed
over gives the same documents whatever was allowed.
"""

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from puna.config import Config
from puna.errors import DataError

PIECE_CHARACTERS = 2**20
"""A plain file longer than this becomes several documents, cut at a blank line where there is one,
else at a line end.
"""

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files."""


class Reading(Config):
    """Options of reading a source. The defaults read a plain file as one document and a row's
    `text` as one.
    """

    text_field: str = Field(
        default="text", min_length=1, description="key or column of the text, see `text_field.py`"
    )
    piece_characters: int = Field(default=PIECE_CHARACTERS, gt=0)
    separator: str | None = Field(
        default=None, min_length=1, description="of documents in a plain file, see `plain_text.py`"
    )
    normalize: Literal["bom", "lf", "none"] = Field(
        default="bom",
        description=(
            "bom drops a file's byte order mark, lf besides makes CRLF and CR a line feed, none"
            " keeps every character"
        ),
    )
    include: tuple[str, ...] = Field(
        default=(), strict=False, description="endings of file names to read, such as .md; () all"
    )
    exclude: tuple[str, ...] = Field(
        default=(), strict=False, description="endings of file names to leave out"
    )

    @field_validator("include", "exclude")
    @classmethod
    def _with_a_dot(cls, endings: tuple[str, ...]) -> tuple[str, ...]:
        """md, .md and *.md are the same ending; notes.md is one too."""
        bare = [ending.lower().removeprefix("*") for ending in endings]
        return tuple(ending if "." in ending else f".{ending}" for ending in bare)

    def takes(self, name: str) -> bool:
        """A file of this name is to be read: by its ending, that of a compression set aside."""
        name = name.lower()
        names = (name, re.sub(rf"({'|'.join(map(re.escape, PACKED))})$", "", name))
        if any(each.endswith(self.exclude) for each in names):
            return False
        return not self.include or any(each.endswith(self.include) for each in names)

    @property
    def encoding(self) -> str:
        """The codec of plain files and of tables that are text."""
        return "utf-8" if self.normalize == "none" else "utf-8-sig"

    def normalized(self, text: str) -> str:
        """The text with the line ends that were asked for."""
        if self.normalize != "lf":
            return text
        return text.replace("\r\n", "\n").replace("\r", "\n")


def checked_reading(**options: Any) -> Reading:
    """A `Reading` of these options. Raises DataError with the value and the rule of a wrong one."""
    try:
        return Reading(**options)
    except ValidationError as error:
        raise DataError(broken_rules(error)) from error


def broken_rules(error: ValidationError) -> str:
    """Every value that breaks a rule, and the rule."""
    return "; ".join(
        f"{problem['loc'][0]} = {problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    )


DEFAULT_READING = Reading()
"""A plain file is a document, and so is the `text` of a row."""
