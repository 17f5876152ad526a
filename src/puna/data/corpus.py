"""A corpus as a stream of documents, each told apart from its copies: the sources that are split,
and those that are held out whole.

What it is not: the rule that gives each document its side is found here, from one reading of a
small corpus, and stated in `split.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from puna.data.dedup import SeenDocuments, document_hash
from puna.data.left_out import LeftOut, printable
from puna.data.manifest import Inputs, SplitName
from puna.data.sources import Document, Source, read_documents
from puna.data.split import DocumentSize, SplitPlan, plan_split
from puna.errors import DataError, TokenizerError
from puna.tokenizer.tokenizer import Tokenizer


@dataclass
class ReadingCounts:
    """Running totals of what was read. limited_documents, limited_bytes: those that `max_documents`
    and `max_bytes` count, without what is held out whole.
    """

    left_out: LeftOut
    documents: int = 0
    bytes: int = 0
    limited_documents: int = 0
    limited_bytes: int = 0

    def reached(self, inputs: Inputs) -> bool:
        """True at the end that `max_bytes` or `max_documents` sets."""
        return (inputs.max_bytes is not None and self.limited_bytes >= inputs.max_bytes) or (
            inputs.max_documents is not None and self.limited_documents >= inputs.max_documents
        )


class CorpusSources(NamedTuple):
    """The sources of a folder of shards: those that are split, and those held out whole. tokenizer:
    documents that its vocabulary cannot hold are left out.
    """

    sources: list[Source]
    held_out: list[Source]
    tokenizer: Tokenizer

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
    """Read a corpus, the text that is held out first, up to `max_bytes` or `max_documents` of
    distinct documents, those held out not counted. Adds to `counts`.
    """
    seen, base = SeenDocuments(), 0
    for held_out, sources in ((True, corpus.held_out), (False, corpus.sources)):
        for document in read_documents(sources, inputs, counts.left_out, spread=inputs.spread):
            try:
                corpus.tokenizer.reject_missing(document.text)
            except TokenizerError as problem:
                counts.left_out.add("damaged", f"{printable(document.path)}: {problem}")
                continue
            text = document.text.encode()
            identity = document_hash(text)
            new = seen.add(identity)
            if new:
                counts.documents += 1
                counts.bytes += len(text)
                counts.limited_documents += not held_out
                counts.limited_bytes += 0 if held_out else len(text)
            else:
                counts.left_out.add("duplicates", printable(document.path))
            yield ReadDocument(
                document, identity, len(text), new, held_out, base + document.position
            )
            if counts.reached(inputs):
                return
        base = sum(source.size for source in sources)


def split_plan(corpus: CorpusSources, inputs: Inputs, counts: ReadingCounts) -> SplitPlan:
    """The rule of the split, found before anything is written. Raises DataError where one side
    would be empty.
    """
    documents = distinct_documents(corpus, inputs, counts)
    if not corpus.held_out:
        return plan_split(
            (
                DocumentSize(read.hash, read.size, len(read.document.text.strip().encode()))
                for read in documents
                if read.new
            ),
            inputs.validation_fraction,
        )
    if not any(read.new and not read.held_out for read in documents):
        raise DataError(
            f"every document of {', '.join(source.name for source in corpus.sources)} is also in"
            f" {', '.join(source.name for source in corpus.held_out)}, so nothing is left to train"
            " on; name other validation text"
        )
    return SplitPlan(0.0)
