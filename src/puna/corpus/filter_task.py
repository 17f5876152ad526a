"""The first part of corpus work, on a run of files: read, put the documents through the stages that
look at one at a time, and write what is left as pieces with their keys.

Memory: a batch of about a megabyte of text, and the longest document.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from puna import durable
from puna.config import Config
from puna.corpus.c4_rules import c4
from puna.corpus.code_rules import code
from puna.corpus.corpus_recipe import CorpusSource, Stages
from puna.corpus.decontamination import decontaminate
from puna.corpus.gopher_rules import gopher, repetition
from puna.corpus.input_files import InputFile
from puna.corpus.language import language
from puna.corpus.near_duplicates import band_keys
from puna.corpus.normalization import normalize
from puna.corpus.personal_data import personal_data
from puna.corpus.pieces import Keys, PieceAppend, keys_file, new_piece
from puna.corpus.read_input import read_input
from puna.corpus.stages import CorpusDocument, Stage, StageResult, judged
from puna.corpus.tally import StageCount, StageCounts, summed, text_bytes
from puna.data.dedup import document_hash
from puna.data.left_out import LeftOut, LeftOutKind

_BATCH_BYTES = 2**20

DOCUMENT_STAGES: tuple[tuple[str, Stage], ...] = (
    ("normalize", normalize),
    ("language", language),
    ("gopher", gopher),
    ("repetition", repetition),
    ("c4", c4),
    ("code", code),
    ("decontaminate", decontaminate),
    ("personal_data", personal_data),
)
"""The stages that look at one document at a time, by the keys of `Stages`."""


class FilterTask(NamedTuple):
    """A run of files of one source."""

    source: CorpusSource
    stages: Stages
    piece_bytes: int
    files: tuple[InputFile, ...]
    folder: Path
    """Of the source's pieces."""
    number: int
    """Among the source's tasks."""

    @property
    def record(self) -> Path:
        """The file that is written last."""
        return self.folder / f"{self.number:06d}.json"

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return sum(file.size for file in self.files)


class WrittenPiece(Config):
    """A piece that was written."""

    name: str
    documents: int
    bytes: int
    """UTF-8 bytes of the text."""


class FilterRecord(Config):
    """The outcome of a task."""

    pieces: tuple[WrittenPiece, ...]
    stages: StageCounts
    left_out: dict[LeftOutKind, int]
    examples: dict[LeftOutKind, tuple[str, ...]]


def filter_files(task: FilterTask) -> int:
    """Do the task, and write its pieces and then its record. Returns the task's size."""
    left_out = LeftOut(bad_share=1.0)  # the share is judged for all of a source
    counts: StageCounts = {}
    with _Pieces(task) as pieces:
        for batch in _batches(read_input(task.files, task.source, left_out)):
            counts = summed((counts, _run_stages(batch, task, pieces.add)))
    record = FilterRecord(
        pieces=tuple(pieces.written),
        stages=counts,
        left_out={kind: count for kind, count in left_out.counts.items() if count},
        examples={kind: tuple(names) for kind, names in left_out.examples.items()},
    )
    durable.write_json(task.record, record.model_dump(mode="json"))
    return task.size


def sample(documents: Sequence[CorpusDocument], share: float) -> StageResult:
    """The share of the documents that the lower half of their text's hash chooses; the upper one
    chooses those held out for validation, so the two are independent.
    """
    end = int(share * 2.0**64)

    def broken_rule(text: str) -> str | None:
        chosen = document_hash(text.encode()) % 2**64 < end
        return None if chosen else f"not in the share of {share:g}"

    return judged(documents, broken_rule)


def _run_stages(
    documents: list[CorpusDocument],
    task: FilterTask,
    write: Callable[[list[CorpusDocument]], None],
) -> StageCounts:
    counts = {"read": StageCount.of(documents, judged(documents, lambda _: None))}
    for name, stage in DOCUMENT_STAGES:
        options = getattr(task.stages, name)
        if options is not None:
            result = stage(documents, options)
            counts[name] = StageCount.of(documents, result)
            documents = result.kept
    if task.source.share < 1:
        result = sample(documents, task.source.share)
        counts["sample"] = StageCount.of(documents, result)
        documents = result.kept
    write(documents)
    return counts


def _batches(documents: Iterator[CorpusDocument]) -> Iterator[list[CorpusDocument]]:
    batch: list[CorpusDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Pieces:
    """The pieces of a task, of which one is open at a time. To be used as a context manager, which
    leaves no half of a piece.
    """

    def __init__(self, task: FilterTask) -> None:
        self._task = task
        self._open: PieceAppend | None = None
        self._stack = ExitStack()
        self._documents = self._bytes = 0
        self.written: list[WrittenPiece] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self._finish()
        else:
            self._stack.__exit__(kind, error, traceback)

    def add(self, documents: list[CorpusDocument]) -> None:
        """Append a batch, and close the piece where it is full."""
        if not documents:
            return
        if self._open is None:
            path = self._task.folder / f"{self._name}.parquet"
            compared = self._task.stages.compared
            self._open = self._stack.enter_context(
                new_piece(path, keys_file(path) if compared else None)
            )
        self._open(documents, self._bands(documents))
        self._documents += len(documents)
        self._bytes += text_bytes(documents)
        if self._bytes >= self._task.piece_bytes:
            self._finish()

    def _finish(self) -> None:
        if self._open is not None:
            self._stack.close()
            self.written.append(
                WrittenPiece(name=self._name, documents=self._documents, bytes=self._bytes)
            )
            self._open, self._documents, self._bytes = None, 0, 0

    @property
    def _name(self) -> str:
        return f"{self._task.number:06d}-{len(self.written):04d}"

    def _bands(self, documents: list[CorpusDocument]) -> Keys:
        options = self._task.stages.near_duplicates
        if options is None:
            return np.empty((0, len(documents)), dtype=np.uint64)
        return band_keys([document.text for document in documents], options)
