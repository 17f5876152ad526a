"""Text in one form: Unicode's NFC, line feeds as line ends, and no control characters.

Sources: Unicode Standard Annex 15 for the forms; the categories Cc, Cs and the non-characters of
Unicode's chapter 23.7. The usual mistake: NFKC, which makes x² to x2 and ﬁ to fi for good.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from puna.config import Config
from puna.corpus.stages import CorpusDocument, StageResult, rewritten

_LINE_ENDS = re.compile(r"\r\n?|\u0085|\u2028|\u2029")
# C0 and C1 but for tab and line feed; NUL to U+001F hold form feed, escape and the like; byte order
# marks inside a text, halves of surrogate pairs and non-characters say nothing either
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class NormalizeOptions(Config):
    """Options of the stage `normalize`."""

    form: Literal["NFC", "NFKC", "none"] = Field(default="NFC", description="of Unicode")
    line_ends: bool = Field(default=True, description="make every line end a line feed")
    control_characters: bool = Field(
        default=True, description="drop those that are neither tab nor line feed"
    )


def normalize(documents: Sequence[CorpusDocument], options: NormalizeOptions) -> StageResult:
    """Each text in one form; counts the texts that each of the three steps changed."""

    def rewrite(text: str, changed: Counter[str]) -> str:
        if options.line_ends and (fed := _LINE_ENDS.sub("\n", text)) != text:
            changed["line ends"] += 1
            text = fed
        if options.control_characters and (shown := _CONTROL.sub("", text)) != text:
            changed["control characters"] += 1
            text = shown
        # most texts are in the form already, and the check costs a tenth of the work
        if options.form != "none" and not unicodedata.is_normalized(options.form, text):
            changed[options.form] += 1
            text = unicodedata.normalize(options.form, text)
        return text

    return rewritten(documents, rewrite)
