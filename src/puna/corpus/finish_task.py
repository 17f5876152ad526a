"""The last part of corpus work, on one piece: leave repeated documents out, and turn the others
into shards of token ids, or where there is no tokenizer into a Parquet file of documents.

A piece gives at most one shard a split, with the piece's number, so shards can be written by any
number of processes in any order. Memory: the ids of one piece, 2 or 4 bytes a token.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from puna import durable
from puna.config import Config
from puna.corpus.duplicates import repeated
from puna.corpus.pieces import new_piece, read_piece
from puna.corpus.stages import CorpusDocument, DroppedDocument, StageResult
from puna.corpus.tally import StageCount, StageCounts
from puna.data.dedup import SeenDocuments, document_hash
from puna.data.encode import load_encoder
from puna.data.manifest import SPLITS, Shard, SplitName
from puna.data.shards import ShardWriter
from puna.data.split import DocumentSize, SplitPlan, plan_split
from puna.errors import TokenizerError
from puna.tokenizer.tokenizer import Tokenizer

NO_LIMIT = 2**62
"""Tokens of a shard: its piece ends it."""


class FinishTask(NamedTuple):
    """One piece."""

    piece: Path
    size: int
    """UTF-8 bytes of its text."""
    first: int
    """Number of its first document among all."""
    documents: int
    labels: tuple[tuple[str, Path], ...]
    """Of each stage that compares documents: its name and labels (`duplicates.py`)."""
    out: Path
    """Folder of the source's shards, with the tokenizer where there is one."""
    number: int
    """Among the source's pieces."""
    tokenize: bool
    split: SplitPlan

    @property
    def record(self) -> Path:
        """The file that is written last."""
        return self.piece.with_suffix(".finished.json")


class FinishRecord(Config):
    """The outcome of a task."""

    stages: StageCounts
    shards: dict[SplitName, tuple[Shard, ...]]


def finish_piece(task: FinishTask) -> int:
    """Do the task, and write its output and then its record. Returns the task's size."""
    counts: StageCounts = {}
    shards: dict[SplitName, tuple[Shard, ...]] = {}
    with _shards(task, shards) if task.tokenize else _documents(task) as write:
        for documents in _without_repeats(task, counts):
            for name, count in write(documents).items():
                _add(counts, name, count)
    record = FinishRecord(stages=counts, shards=shards)
    durable.write_json(task.record, record.model_dump(mode="json"))
    return task.size


def plan_source_split(pieces: Sequence[FinishTask], folder: Path, fraction: float) -> SplitPlan:
    """The split of the source with these pieces, from its first documents (`split.py`); nothing is
    held out of a source of which the stages left nothing. folder: the tokenizer's.

    Raises DataError for a text too short to be cut.
    """
    seen = SeenDocuments()
    tokenizer = load_encoder(folder).tokenizer
    sizes = (
        DocumentSize.of(document.text)
        for piece in pieces
        for documents in _without_repeats(piece, {})
        for document in _in_vocabulary(documents, tokenizer).kept
    )
    distinct = (size for size in sizes if seen.add(size.hash))
    first = next(distinct, None)
    if first is None:
        return SplitPlan(0.0)
    return plan_split(itertools.chain([first], distinct), fraction)


REASONS = {
    "exact_duplicates": "a text that was there before",
    "near_duplicates": "much like a text before",
}
"""Of the stages that compare documents."""

Write = Callable[[list[CorpusDocument]], StageCounts]


def _add(counts: StageCounts, name: str, count: StageCount) -> None:
    counts[name] = counts[name].plus(count) if name in counts else count


def _without_repeats(task: FinishTask, counts: StageCounts) -> Iterator[list[CorpusDocument]]:
    """The documents of the piece that repeat none before; counts the others."""
    stages = [(name, repeated(labels, task.first, task.documents)) for name, labels in task.labels]
    start = 0
    for documents in read_piece(task.piece):
        numbered = list(enumerate(documents, start))
        start += len(documents)
        for name, repeats in stages:
            result = StageResult(
                [document for number, document in numbered if not repeats[number]],
                [
                    DroppedDocument(document, REASONS[name])
                    for number, document in numbered
                    if repeats[number]
                ],
                Counter(),
            )
            _add(counts, name, StageCount.of([document for _, document in numbered], result))
            numbered = [item for item in numbered if not repeats[item[0]]]
        yield [document for _, document in numbered]


@contextmanager
def _shards(task: FinishTask, shards: dict[SplitName, tuple[Shard, ...]]) -> Iterator[Write]:
    """Write token ids, one shard a split, into `shards`."""
    encoder = load_encoder(task.out)

    def remember(split: SplitName, shard: Shard) -> None:
        shards[split] = (shard,)

    writers = {
        split: ShardWriter(task.out, split, NO_LIMIT, task.number, remember) for split in SPLITS
    }

    def write(documents: list[CorpusDocument]) -> StageCounts:
        result = _in_vocabulary(documents, encoder.tokenizer)
        parts = [
            part
            for document in result.kept
            for part in task.split.parts(document_hash(document.text.encode()), document.text)
        ]
        ids = encoder.encode([text for _, text in parts])
        for (split, text), document_ids in zip(parts, ids, strict=True):
            writers[split].add(document_ids, len(text.encode()))
            result.changed["tokens"] += len(document_ids)
        return {"tokenize": StageCount.of(documents, result)}

    yield write
    for writer in writers.values():
        writer.finish()


def _in_vocabulary(documents: list[CorpusDocument], tokenizer: Tokenizer) -> StageResult:
    result = StageResult([], [], Counter())
    for document in documents:
        try:
            tokenizer.reject_missing(document.text)
            result.kept.append(document)
        except TokenizerError:
            reason = "characters that the vocabulary lacks"
            result.dropped.append(DroppedDocument(document, reason))
    return result


@contextmanager
def _documents(task: FinishTask) -> Iterator[Write]:
    """Write the documents themselves."""
    with new_piece(task.out / f"documents-{task.number:05d}.parquet", None) as append:

        def write(documents: list[CorpusDocument]) -> StageCounts:
            append(documents, np.empty((0, len(documents)), dtype=np.uint64))
            return {}

        yield write
