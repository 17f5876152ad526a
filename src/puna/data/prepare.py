"""From sources to a folder of shards: read, drop copies, split, tokenise on all cores, write.

This process reads, hashes and writes; worker processes turn batches of text into ids. Batches come
back in the order in which they were sent, so the bytes on disk do not depend on the number of
workers. The beginning of the sources is read once before, for a split with two sides (`split.py`).

After every shard the list of finished shards (`journal.json`) is replaced. A run that was ended at
any moment, by a signal, a power cut or a full disk, is continued by the same call: the sources are
read and hashed again, which is fast, and only documents that no finished shard holds are tokenised.
The manifest is written last, and ends the journal.

What it is not: it trains no tokenizer and mixes no sources; prepare each source of a mixture into a
folder of its own.

Cost: the tokenizer's time, divided by the workers. Memory: one shard a split (2 bytes a token), a
few batches of half a megabyte, the longest document, and the hashes of `dedup.py`; otherwise the
size of the corpus does not matter. Measured with 100 MB of Python text in 6,534 documents: at most
181 MiB here (78 MiB before the start) and 161 MiB in each of two workers.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from puna import durable
from puna.data.corpus import CorpusSources, ReadingCounts, distinct_documents, split_plan
from puna.data.encode import available_cores, encode_batches
from puna.data.journal import (
    JOURNAL_NAME,
    begun_shards,
    completed_manifest,
    forget_others,
    write_journal,
)
from puna.data.left_out import BAD_SHARE, LeftOut, printable
from puna.data.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Inputs,
    Manifest,
    Shard,
    SourceRecord,
    Split,
    SplitName,
    dtype_of,
)
from puna.data.output_folder import writing_folder
from puna.data.reading import PIECE_CHARACTERS, Reading, broken_rules, checked_reading
from puna.data.shards import ShardWriter
from puna.data.sources import Source, find_sources
from puna.data.split import SplitPlan
from puna.errors import DataError
from puna.spawn import require_main_guard
from puna.tokenizer.tokenizer import Tokenizer

SHARD_TOKENS = 2**24
"""Tokens a shard: 32 MiB as uint16, about 60 MB of English; an interruption loses at most this much
of each split.
"""

_BATCH_BYTES = 2**19
_STORED_BYTES_PER_WORKER = 2**23  # below this a further worker takes longer to start than it saves


class PreparationProgress(NamedTuple):
    """Progress of `prepare`, the work of an interrupted call before it included."""

    fraction: float
    """Of the sources, or of `max_bytes` where that is nearer: 0 to 1."""
    documents: int
    """Documents kept so far."""
    bytes: int
    """UTF-8 bytes of their text."""


class _Label(NamedTuple):
    """Facts about a batch's documents before they are tokenised."""

    splits: list[SplitName]
    sizes: list[int]
    progress: PreparationProgress


def prepare(
    sources: Sequence[str | Path] | str | Path,
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    validation_fraction: float = 0.05,
    validation_sources: Sequence[str | Path] | str | Path = (),
    replace: bool = False,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    max_bytes: int | None = None,
    max_documents: int | None = None,
    text_field: str = "text",
    piece_characters: int = PIECE_CHARACTERS,
    separator: str | None = None,
    normalize: Literal["bom", "lf", "none"] = "bom",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strict: bool = False,
    bad_share: float = BAD_SHARE,
    own: Sequence[Path] = (),
    on_progress: Callable[[PreparationProgress], None] | None = None,
) -> Manifest:
    """Tokenise `sources` into the folder `out`, or continue what an interrupted call with the same
    inputs began there.

    sources: one or several, as `sources.py` lists them. validation_fraction: the share of documents
    for validation, decided by each document's hash, and in a small corpus of its bytes where hashes
    would not do (`split.py`). validation_sources: texts that are held out in place of that share;
    documents of `sources` that are among them are left out. replace: begin a folder of other inputs
    again, where else it is rejected. workers: processes; None takes one a core, fewer for a small
    corpus; 1 tokenises in this process. shard_tokens: a shard ends with the document that reaches
    it. max_bytes: end with the document that brings the text kept, both splits together but for
    `validation_sources`, to this many UTF-8 bytes; max_documents: with this many documents; files
    are then read in the order of a hash of their names, so that both take a sample of each source.
    text_field, piece_characters, separator, normalize, include, exclude: see `Reading`. strict,
    bad_share: see `LeftOut`. own: folders that are no text though they lie inside a source; `out`
    is one.

    Returns the manifest. A folder that is complete and was made from the same inputs is left as it
    is. Raises DataError for bad sources and options, for a folder that holds something else, and
    for a full disk; what was finished stays, and the same call continues it. Raises PunaError where
    several workers are started from a script without `if __name__ == "__main__":`, which each of
    them then runs from its beginning.
    """
    require_main_guard()
    out = Path(out)
    reading = checked_reading(
        text_field=text_field,
        piece_characters=piece_characters,
        separator=separator,
        normalize=normalize,
        include=include,
        exclude=exclude,
    )
    names, held_out = _names(sources), _names(validation_sources)
    corpus = CorpusSources(
        find_sources(names, reading, (out, *own)),
        find_sources(held_out, reading, (out, *own)) if held_out else [],
        tokenizer,
    )
    inputs = _inputs(
        corpus, tokenizer, validation_fraction, shard_tokens, max_bytes, max_documents, reading
    )
    if workers is None:
        workers = min(available_cores(), 1 + corpus.size // _STORED_BYTES_PER_WORKER)
    if workers < 1:
        raise DataError(f"workers is {workers}, but at least one process must tokenise")

    def nothing_read() -> ReadingCounts:
        return ReadingCounts(LeftOut(strict=strict, bad_share=bad_share))

    complete = (out / MANIFEST_NAME).exists() and not replace
    plan = None if complete else split_plan(corpus, inputs, nothing_read())
    with writing_folder(out):
        if replace:
            forget_others(out, inputs)
        if plan is None or (out / MANIFEST_NAME).exists():
            return completed_manifest(out, inputs)
        shards = begun_shards(out, inputs)
        tokenizer.save(out)
        return _fill(out, inputs, shards, corpus, plan, workers, nothing_read(), on_progress)


def _names(sources: Sequence[str | Path] | str | Path) -> list[str]:
    return [str(name) for name in ([sources] if isinstance(sources, str | Path) else sources)]


def _fill(
    out: Path,
    inputs: Inputs,
    shards: dict[SplitName, list[Shard]],
    corpus: CorpusSources,
    plan: SplitPlan,
    workers: int,
    counts: ReadingCounts,
    on_progress: Callable[[PreparationProgress], None] | None,
) -> Manifest:
    """Write the shards that are still to come, adding each to `shards` and the journal, and then
    the manifest.
    """

    def remember(split: SplitName, shard: Shard) -> None:
        shards[split].append(shard)
        write_journal(out, inputs, shards)

    # the journal counts documents, so an interrupted call goes on at a document's border
    finished = {split: sum(shard.documents for shard in shards[split]) for split in SPLITS}
    writers = {
        split: ShardWriter(out, split, inputs.shard_tokens, len(shards[split]), remember)
        for split in SPLITS
    }
    batches = _batches(corpus, inputs, plan, finished, counts)
    for encoded, label in encode_batches(batches, out, workers):
        for ids, split, size in zip(encoded.documents(), label.splits, label.sizes, strict=True):
            writers[split].add(ids, size)
        if on_progress is not None:
            on_progress(label.progress)
    for writer in writers.values():
        writer.finish()
    manifest = Manifest(
        format=1,
        inputs=inputs,
        dtype=dtype_of(inputs.vocab_size),
        splits={split: Split.of(tuple(shards[split])) for split in SPLITS},
        **{str(kind): count for kind, count in counts.left_out.counts.items()},
        examples={kind: tuple(names) for kind, names in counts.left_out.examples.items()},
        cut=bool(plan.cut),
    )
    # the manifest makes the folder complete: after the last shard, and before the journal goes
    durable.write_json(out / MANIFEST_NAME, manifest.model_dump(mode="json"))
    (out / JOURNAL_NAME).unlink()
    return manifest


def _batches(
    corpus: CorpusSources,
    inputs: Inputs,
    plan: SplitPlan,
    finished: dict[SplitName, int],
    counts: ReadingCounts,
) -> Iterator[tuple[list[str], _Label]]:
    """Read the sources and batch the documents that are kept, but for the first `finished` of each
    split.

    Adds to `counts`. A stretch without a document to tokenise gives empty batches, so that progress
    shows.
    """
    taken = dict.fromkeys(SPLITS, 0)
    texts: list[str] = []
    splits: list[SplitName] = []
    sizes: list[int] = []
    volume = 0
    for read in distinct_documents(corpus, inputs, counts):
        # duplicates count too, so that a long stretch of them still shows progress
        volume += read.size
        for split, text in read.parts(plan):
            taken[split] += 1
            # the first documents of each split are in the shards of an interrupted call
            if taken[split] > finished[split]:
                texts.append(text)
                splits.append(split)
                sizes.append(len(text.encode()))
        if volume >= _BATCH_BYTES:
            # the position counts stored bytes, max_bytes those of the text: the nearer end counts
            done = max(
                read.position / corpus.size,
                counts.limited_bytes / inputs.max_bytes if inputs.max_bytes else 0.0,
                counts.limited_documents / inputs.max_documents if inputs.max_documents else 0.0,
            )
            yield (
                texts,
                _Label(splits, sizes, PreparationProgress(done, counts.documents, counts.bytes)),
            )
            texts, splits, sizes, volume = [], [], [], 0
    yield texts, _Label(splits, sizes, PreparationProgress(1.0, counts.documents, counts.bytes))


def _inputs(
    corpus: CorpusSources,
    tokenizer: Tokenizer,
    validation_fraction: float,
    shard_tokens: int,
    max_bytes: int | None,
    max_documents: int | None,
    reading: Reading,
) -> Inputs:
    _ = tokenizer.eos_id  # a vocabulary without an end of text is rejected here, not in a worker
    try:
        return Inputs(
            sources=_records(corpus.sources),
            validation_sources=_records(corpus.held_out),
            tokenizer_hash=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            **reading.model_dump(),
            validation_fraction=0.0 if corpus.held_out else validation_fraction,
            max_bytes=max_bytes,
            max_documents=max_documents,
            spread=max_bytes is not None or max_documents is not None,
            shard_tokens=shard_tokens,
        )
    except ValidationError as error:
        raise DataError(broken_rules(error)) from error


def _records(sources: list[Source]) -> tuple[SourceRecord, ...]:
    return tuple(
        SourceRecord(
            name=printable(source.name),
            files=len(source.files),
            size=source.size,
            files_hash=source.fingerprint,
        )
        for source in sources
    )
