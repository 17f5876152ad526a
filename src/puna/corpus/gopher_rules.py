"""Gopher's quality rules and its rules on repetition, each named in the count of what it drops.

Source: Rae et al. 2021, Scaling Language Models: Methods, Analysis & Insights from Training Gopher,
appendix A.1.1 and table A1. All thresholds are theirs. The words are those between white space.
The usual mistake: to apply the rule on stop words, which are English, to another language.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from puna.config import Config
from puna.corpus.stages import CorpusDocument, StageResult, judged

_BULLETS = ("•", "‣", "◦", "-", "*", "\u2013", "·")
_ELLIPSES = ("...", "…")


class GopherOptions(Config):
    """Options of the stage `gopher`: the thresholds of the paper."""

    min_words: int = Field(default=50, ge=0)
    max_words: int = Field(default=100_000, gt=0)
    min_mean_word_length: float = Field(default=3.0, ge=0)
    max_mean_word_length: float = Field(default=10.0, gt=0)
    max_symbol_ratio: float = Field(
        default=0.1, ge=0, description="of hashes, and of ellipses, to words"
    )
    max_bullet_lines: float = Field(default=0.9, ge=0, le=1)
    max_ellipsis_lines: float = Field(default=0.3, ge=0, le=1)
    min_alphabetic_words: float = Field(default=0.8, ge=0, le=1)
    min_stop_words: int = Field(default=2, ge=0, description="different ones of `stop_words`")
    stop_words: tuple[str, ...] = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"), strict=False
    )


def gopher(documents: Sequence[CorpusDocument], options: GopherOptions) -> StageResult:
    """Drop what breaks a quality rule; the reason is the first rule that is broken."""
    return judged(documents, lambda text: next(_broken_quality(text, options), None))


def _broken_quality(text: str, options: GopherOptions) -> Iterator[str]:
    words = text.split()
    count = max(1, len(words))
    if len(words) < options.min_words:
        yield f"gopher: fewer than {options.min_words} words"
    if len(words) > options.max_words:
        yield f"gopher: more than {options.max_words} words"
    mean = sum(map(len, words)) / count
    if mean < options.min_mean_word_length:
        yield f"gopher: words shorter than {options.min_mean_word_length:g} on average"
    if mean > options.max_mean_word_length:
        yield f"gopher: words longer than {options.max_mean_word_length:g} on average"
    if text.count("#") / count > options.max_symbol_ratio:
        yield f"gopher: more than {options.max_symbol_ratio:g} hashes a word"
    if sum(map(text.count, _ELLIPSES)) / count > options.max_symbol_ratio:
        yield f"gopher: more than {options.max_symbol_ratio:g} ellipses a word"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if _share(line.startswith(_BULLETS) for line in lines) > options.max_bullet_lines:
        yield f"gopher: more than {options.max_bullet_lines:.0%} of lines begin with a bullet"
    if _share(line.endswith(_ELLIPSES) for line in lines) > options.max_ellipsis_lines:
        yield f"gopher: more than {options.max_ellipsis_lines:.0%} of lines end with an ellipsis"
    if _share(any(map(str.isalpha, word)) for word in words) < options.min_alphabetic_words:
        yield f"gopher: fewer than {options.min_alphabetic_words:.0%} of words have a letter"
    bare = {word.strip(".,;:!?\"'()").lower() for word in words}
    if len(bare.intersection(options.stop_words)) < options.min_stop_words:
        yield f"gopher: fewer than {options.min_stop_words} stop words"


def _share(facts: Iterator[bool]) -> float:
    found = list(facts)
    return sum(found) / len(found) if found else 0.0


class RepetitionOptions(Config):
    """Options of the stage `repetition`: the thresholds of table A1, as shares of a document."""

    duplicate_lines: float = Field(default=0.30, ge=0, le=1)
    duplicate_paragraphs: float = Field(default=0.30, ge=0, le=1)
    duplicate_line_characters: float = Field(default=0.20, ge=0, le=1)
    duplicate_paragraph_characters: float = Field(default=0.20, ge=0, le=1)
    top_ngrams: dict[int, float] = Field(
        default={2: 0.20, 3: 0.18, 4: 0.16},
        strict=False,
        description="characters in the most frequent run of so many words",
    )
    duplicate_ngrams: dict[int, float] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        strict=False,
        description="characters in runs of so many words that occur twice or more",
    )


def repetition(documents: Sequence[CorpusDocument], options: RepetitionOptions) -> StageResult:
    """Drop what repeats itself; the reason is the first rule that is broken."""
    return judged(documents, lambda text: next(_broken_repetition(text, options), None))


def _broken_repetition(text: str, options: RepetitionOptions) -> Iterator[str]:
    for parts, of_parts, of_characters, name in (
        (
            text.splitlines(),
            options.duplicate_lines,
            options.duplicate_line_characters,
            "lines",
        ),
        (
            re.split(r"\n\s*\n", text.strip()),
            options.duplicate_paragraphs,
            options.duplicate_paragraph_characters,
            "paragraphs",
        ),
    ):
        parts = [part.strip() for part in parts if part.strip()]
        copies = list(_copies(parts))
        if len(copies) > of_parts * len(parts):
            yield f"gopher: more than {of_parts:.0%} of {name} repeated"
        if sum(map(len, copies)) > of_characters * len(text):
            yield f"gopher: more than {of_characters:.0%} of characters in repeated {name}"
    words = text.split()
    characters = max(1, sum(map(len, words)))
    for length, share in options.top_ngrams.items():
        if _top_ngram_characters(words, length) > share * characters:
            yield f"gopher: more than {share:.0%} of characters in one run of {length} words"
    for length, share in options.duplicate_ngrams.items():
        if _duplicate_ngram_characters(words, length) > share * characters:
            yield f"gopher: more than {share:.0%} of characters in repeated runs of {length} words"


def _copies(parts: list[str]) -> Iterator[str]:
    """Each part that stood before."""
    seen: set[str] = set()
    for part in parts:
        if part in seen:
            yield part
        seen.add(part)


def _ngrams(words: list[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[place:] for place in range(length)), strict=False))


def _top_ngram_characters(words: list[str], length: int) -> int:
    """Characters of the most frequent run, times its number; a run that is there once repeats
    nothing.
    """
    counts = Counter(_ngrams(words, length))
    if not counts:
        return 0
    run, count = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
    return count * sum(map(len, run)) if count > 1 else 0


def _duplicate_ngram_characters(words: list[str], length: int) -> int:
    """Characters in words that are part of a run that occurs twice or more; each word once."""
    runs = _ngrams(words, length)
    counts = Counter(runs)
    if len(counts) == len(runs):
        return 0
    total, covered = 0, 0
    for start, run in enumerate(runs):
        if counts[run] > 1:
            total += sum(map(len, words[max(start, covered) : start + length]))
            covered = start + length
    return total
