"""C4's rules: lines that are no sentences go, and pages that then have few of them, or that hold
code or filler.

Source: Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer, section 2.2. Not here: its list of bad words, which would have to be shipped, its
language (stage `language`) and its removal of repeated three-sentence spans (near-duplicates).
"""

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from puna.config import Config
from puna.corpus.stages import CorpusDocument, DroppedDocument, StageResult

_TERMINAL = (".", "!", "?", '"', "”")
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]+[\"”')\]]*(?=\s|$)")


class C4Options(Config):
    """Options of the stage `c4`."""

    min_sentences: int = Field(default=3, ge=0, description="of a page; fewer drop it")
    min_line_words: int = Field(default=5, ge=0, description="of a line; fewer drop the line")
    terminal_punctuation: bool = Field(
        default=True, description="keep only lines that end with a mark of punctuation"
    )
    curly_brackets: bool = Field(default=True, description="drop pages with a curly bracket")


def c4(documents: Sequence[CorpusDocument], options: C4Options) -> StageResult:
    """Drop lines and pages by C4's rules; counts the lines that each rule drops."""
    result = StageResult([], [], Counter())
    for document in documents:
        lowered = document.text.lower()
        if "lorem ipsum" in lowered:
            result.dropped.append(DroppedDocument(document, "c4: lorem ipsum"))
        elif options.curly_brackets and "{" in document.text:
            result.dropped.append(DroppedDocument(document, "c4: a curly bracket"))
        else:
            text = _sentences_only(document.text, options, result.changed)
            if len(_SENTENCE_END.findall(text)) < options.min_sentences:
                reason = f"c4: fewer than {options.min_sentences} sentences"
                result.dropped.append(DroppedDocument(document, reason))
            elif not text or text.isspace():
                result.dropped.append(DroppedDocument(document, "c4: nothing left"))
            else:
                result.kept.append(document._replace(text=text))
    return result


def _sentences_only(text: str, options: C4Options, changed: Counter[str]) -> str:
    kept: list[str] = []
    for line in text.split("\n"):
        line = line.strip()
        bare, citations = _CITATION.subn("", line)
        lowered = bare.lower()
        if options.terminal_punctuation and not bare.endswith(_TERMINAL):
            changed["lines without a mark at their end"] += 1
        elif bare.endswith(("...", "…")) and options.terminal_punctuation:
            changed["lines that break off"] += 1
        elif len(bare.split()) < options.min_line_words:
            changed[f"lines of fewer than {options.min_line_words} words"] += 1
        elif "javascript" in lowered:
            changed["lines about JavaScript"] += 1
        elif any(phrase in lowered for phrase in _POLICY):
            changed["lines about policies"] += 1
        else:
            changed["citation marks"] += citations
            kept.append(bare)
    return "\n".join(kept)
