"""Texts of evaluations kept out of a corpus: a document that shares a run of words with one is
dropped.

Source: Brown et al. 2020, Language Models are Few-Shot Learners, appendix C, which takes runs of 8
to 13 words; here 12, compared in lower case and without punctuation. The evaluation's text is to be
given as it is asked: question and answer together, for shorter ones may be in no run. Texts of
fewer words than a run cannot be looked for; `warn_of_short_texts` says how many there are. Cost: 8
bytes of memory a word of the evaluations. Runs are compared by 64-bit hashes: of 10^12 runs of a
corpus and 10^6 of evaluations one accidental match is to be expected in 18 corpora.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from puna.config import Config
from puna.corpus.stages import CorpusDocument, DroppedDocument, StageResult
from puna.corpus.words import ngram_hashes, words_of
from puna.data.reading import Reading
from puna.data.sources import read_texts

log = logging.getLogger("puna.corpus")


class DecontaminateOptions(Config):
    """Options of the stage `decontaminate`."""

    texts: tuple[str, ...] = Field(
        min_length=1, strict=False, description="files and folders of evaluation texts"
    )
    words: int = Field(default=12, ge=1, description="of a run that both texts have")
    text_field: str = Field(
        default="text", description="of tables; question,answer joins both (`text_field.py`)"
    )


class EvaluationRuns(NamedTuple):
    """The runs of words of all evaluation texts."""

    hashes: npt.NDArray[np.uint64]
    """Sorted, each once: [N]."""
    texts: int
    too_short: int
    """Texts that are shorter than a run."""


def decontaminate(
    documents: Sequence[CorpusDocument], options: DecontaminateOptions
) -> StageResult:
    """Drop the documents that share a run of words with an evaluation text."""
    runs = evaluation_runs(options).hashes
    result = StageResult([], [], Counter())
    for document in documents:
        words = words_of(document.text)
        hashes = ngram_hashes(words, options.words)
        found = np.flatnonzero(_are_in(hashes, runs))
        if found.size:
            shared = " ".join(words[found[0] : found[0] + options.words])
            reason = f"{options.words} words of an evaluation text"
            result.dropped.append(DroppedDocument(document, reason, shared))
        else:
            result.kept.append(document)
    return result


@lru_cache(maxsize=1)
def evaluation_runs(options: DecontaminateOptions) -> EvaluationRuns:
    """Read the evaluation texts, once a process. Raises DataError where there are none."""
    parts, texts, too_short = [], 0, 0
    reading = Reading(text_field=options.text_field)
    for text in read_texts(options.texts, reading):
        hashes = ngram_hashes(words_of(text), options.words)
        texts += 1
        too_short += not hashes.size
        parts.append(hashes)
    return EvaluationRuns(np.unique(np.concatenate(parts)), texts, too_short)


def warn_of_short_texts(options: DecontaminateOptions) -> None:
    """Log how many evaluation texts are not looked for. Raises as `evaluation_runs` does."""
    runs = evaluation_runs(options)
    if runs.too_short:
        log.warning(
            "decontaminate: %d of %d evaluation texts have fewer than %d words and are not looked"
            " for; lower `words`, or join more fields with `text_field`",
            runs.too_short,
            runs.texts,
            options.words,
        )


def _are_in(
    hashes: npt.NDArray[np.uint64], sorted_set: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    if not sorted_set.size:
        return np.zeros(len(hashes), dtype=bool)
    at = np.searchsorted(sorted_set, hashes)
    found: npt.NDArray[np.bool_] = sorted_set[np.minimum(at, len(sorted_set) - 1)] == hashes
    return found
