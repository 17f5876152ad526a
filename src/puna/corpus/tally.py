"""Counts of what each stage took, gave, dropped and changed, with samples of what it dropped.

Sums of counts do not depend on the order of their parts, and the samples are those with the least
hashes, so any number of processes gives the same report.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from pydantic import Field

from puna.config import Config
from puna.corpus.stages import CorpusDocument, DroppedDocument, StageResult
from puna.data.dedup import document_hash

SAMPLES = 5
"""Kept of each reason."""

EXCERPT_CHARACTERS = 400


class DroppedSample(Config):
    """The beginning of a document that was dropped."""

    key: str
    """128-bit xxh3 of origin and text: 32 hex digits; the samples with the least are kept."""
    origin: str
    excerpt: str
    detail: str = ""
    """The place or value that broke the rule, where a stage says one."""

    @classmethod
    def of(cls, dropped: DroppedDocument) -> Self:
        """The sample of this document."""
        document = dropped.document
        key = document_hash(f"{document.origin}\0{document.text}".encode())
        return cls(
            key=f"{key:032x}",
            origin=document.origin,
            excerpt=document.text[:EXCERPT_CHARACTERS],
            detail=dropped.detail[:EXCERPT_CHARACTERS],
        )


class DropCount(Config):
    """The documents that were dropped for one reason."""

    documents: int = 0
    bytes: int = 0
    samples: tuple[DroppedSample, ...] = ()

    def plus(self, other: "DropCount") -> "DropCount":
        """Both together."""
        samples = {sample.key: sample for sample in (*self.samples, *other.samples)}
        return DropCount(
            documents=self.documents + other.documents,
            bytes=self.bytes + other.bytes,
            samples=tuple(samples[key] for key in sorted(samples)[:SAMPLES]),
        )


class StageCount(Config):
    """The work of one stage."""

    documents_in: int = 0
    bytes_in: int = 0
    """UTF-8 bytes of the texts, as everywhere in these counts."""
    documents_out: int = 0
    bytes_out: int = 0
    dropped: dict[str, DropCount] = Field(default_factory=dict)
    changed: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, documents: Sequence[CorpusDocument], result: StageResult) -> Self:
        """The count of one batch and its result."""
        return cls(
            documents_in=len(documents),
            bytes_in=text_bytes(documents),
            documents_out=len(result.kept),
            bytes_out=text_bytes(result.kept),
            dropped=_drop_counts(result),
            changed={kind: count for kind, count in result.changed.items() if count},
        )

    def plus(self, other: "StageCount") -> "StageCount":
        """Both together."""
        reasons = sorted({*self.dropped, *other.dropped})
        kinds = sorted({*self.changed, *other.changed})
        none = DropCount()
        return StageCount(
            documents_in=self.documents_in + other.documents_in,
            bytes_in=self.bytes_in + other.bytes_in,
            documents_out=self.documents_out + other.documents_out,
            bytes_out=self.bytes_out + other.bytes_out,
            dropped={
                reason: self.dropped.get(reason, none).plus(other.dropped.get(reason, none))
                for reason in reasons
            },
            changed={
                kind: self.changed.get(kind, 0) + other.changed.get(kind, 0) for kind in kinds
            },
        )


StageCounts = dict[str, StageCount]
"""By the name of the stage, in the order of the stages."""


def summed(counts: Iterable[StageCounts]) -> StageCounts:
    """All counts together, stage by stage."""
    total: StageCounts = {}
    for part in counts:
        for name, count in part.items():
            total[name] = total[name].plus(count) if name in total else count
    return total


def text_bytes(documents: Iterable[CorpusDocument]) -> int:
    """UTF-8 bytes of the texts."""
    return sum(len(document.text.encode()) for document in documents)


def _drop_counts(result: StageResult) -> dict[str, DropCount]:
    by_reason: dict[str, list[DroppedDocument]] = {}
    for dropped in result.dropped:
        by_reason.setdefault(dropped.reason, []).append(dropped)
    return {
        reason: DropCount(
            documents=len(found),
            bytes=text_bytes(dropped.document for dropped in found),
            samples=tuple(
                sorted(map(DroppedSample.of, found), key=lambda sample: sample.key)[:SAMPLES]
            ),
        )
        for reason, found in sorted(by_reason.items())
    }
