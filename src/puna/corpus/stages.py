"""A stage of corpus work: a plain function from a batch of documents to those that it keeps, those
that it drops, each with the reason, and the count of what it changed.

    stage(documents, options) -> StageResult

A stage holds no state between batches and looks at no other document, so batches may be cut and
spread over processes and machines at will. What compares documents with each other stands in
`near_duplicates.py`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class CorpusDocument(NamedTuple):
    """One text on its way through the stages."""

    text: str
    origin: str
    """The file that it was read from, and its place there."""


class DroppedDocument(NamedTuple):
    """A document that a stage does not keep."""

    document: CorpusDocument
    reason: str
    """A few words that are the same for all documents that the same rule drops."""
    detail: str = ""
    """The place or value that broke the rule, for its sample."""


class StageResult(NamedTuple):
    """The outcome of one stage for one batch."""

    kept: list[CorpusDocument]
    """In the order of the batch; their texts may be changed."""
    dropped: list[DroppedDocument]
    changed: Counter[str]
    """Changes by their kind, such as masked addresses."""


Stage = Callable[[Sequence[CorpusDocument], Any], StageResult]


def judged(
    documents: Sequence[CorpusDocument], broken_rule: Callable[[str], str | None]
) -> StageResult:
    """The result of a stage that changes no text: each document is dropped for the rule that
    `broken_rule` names, and kept where that is None.
    """
    kept: list[CorpusDocument] = []
    dropped: list[DroppedDocument] = []
    for document in documents:
        reason = broken_rule(document.text)
        if reason is None:
            kept.append(document)
        else:
            dropped.append(DroppedDocument(document, reason))
    return StageResult(kept, dropped, Counter())


def rewritten(
    documents: Sequence[CorpusDocument], rewrite: Callable[[str, Counter[str]], str]
) -> StageResult:
    """The result of a stage that changes texts: `rewrite` gives the new text and counts its
    changes; a document of which only white space is left is dropped.
    """
    changed: Counter[str] = Counter()
    kept: list[CorpusDocument] = []
    dropped: list[DroppedDocument] = []
    for document in documents:
        text = rewrite(document.text, changed)
        if not text or text.isspace():
            dropped.append(DroppedDocument(document, "nothing left"))
        else:
            kept.append(document._replace(text=text))
    return StageResult(kept, dropped, changed)
