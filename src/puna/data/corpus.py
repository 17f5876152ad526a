"""A corpus as a stream of documents, each told apart from its copies: the sources that are split,
and those that are held out whole.

What it is not: it does not decide which side a document is on (`split.py` does).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from puna.data.dedup import SeenDocuments, document_hash
from puna.data.manifest import Inputs, SplitName
from puna.data.sources import Document, Skipped, Source, read_documents
from puna.data.split import SplitPlan


@dataclass
class ReadingCounts:
    """Running totals of what was read."""

    skipped: Skipped = field(default_factory=Skipped)
    duplicates: int = 0
    documents: int = 0
    bytes: int = 0
    limited: int = 0
    """Of the bytes, those that `max_bytes` counts."""


class CorpusSources(NamedTuple):
    """The sources of a folder of shards: those that are split, and those held out whole."""

    sources: list[Source]
    held_out: list[Source]

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return sum(source.size for source in self.sources + self.held_out)


class ReadDocument(NamedTuple):
    """A document as it was read: new, or a copy of one before it."""

    document: Document
    hash: int
    size: int
    new: bool
    held_out: bool
    """True where its source is held out whole."""
    position: int
    """Stored bytes of the whole corpus that were read so far."""

    def parts(self, plan: SplitPlan) -> list[tuple[SplitName, str]]:
        """The texts to keep of it, with their sides; none of a copy."""
        if not self.new:
            return []
        text = self.document.text
        return [("validation", text)] if self.held_out else plan.parts(self.hash, text)


def distinct_documents(
    corpus: CorpusSources, inputs: Inputs, counts: ReadingCounts
) -> Iterator[ReadDocument]:
    """Read a corpus, the text that is held out first, up to `max_bytes` of distinct documents,
    those held out not counted. Adds to `counts`.
    """
    seen, base = SeenDocuments(), 0
    for held_out, sources in ((True, corpus.held_out), (False, corpus.sources)):
        for document in read_documents(
            sources,
            text_field=inputs.text_field,
            piece_characters=inputs.piece_characters,
            skipped=counts.skipped,
        ):
            text = document.text.encode()
            identity = document_hash(text)
            new = seen.add(identity)
            if new:
                counts.documents += 1
                counts.bytes += len(text)
                counts.limited += 0 if held_out else len(text)
            else:
                counts.duplicates += 1
            yield ReadDocument(
                document, identity, len(text), new, held_out, base + document.position
            )
            if inputs.max_bytes is not None and counts.limited >= inputs.max_bytes:
                return
        base = sum(source.size for source in sources)
