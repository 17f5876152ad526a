"""Pieces of a corpus on disk between two stages: documents as a Parquet file, and beside it the
keys by which they are compared.

    NAME.parquet     columns `text` and `origin`, a row a document
    NAME.keys.npy    uint64 [2 + bands, documents]: the halves of each text's 128-bit hash, then the
        keys of its bands (`near_duplicates.py`); a band is one run of bytes

What it is not: lasting. A piece is read by this version of Puna, and deleted with its folder.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from puna import durable
from puna.corpus.stages import CorpusDocument
from puna.data.dedup import document_hash

_SCHEMA = pa.schema([("text", pa.large_string()), ("origin", pa.large_string())])
_BATCH_ROWS = 1024
_HALF = 2**64 - 1

Keys = npt.NDArray[np.uint64]

PieceAppend = Callable[[Sequence[CorpusDocument], Keys], None]


@contextmanager
def new_piece(path: Path, keys_path: Path | None) -> Iterator[PieceAppend]:
    """Yield a function that appends a batch with the keys [bands, documents] of its bands; both
    files are there when the context ends without an error, the documents last.

    keys_path: None for a piece that is compared with nothing.
    """
    keys: list[Keys] = []
    with durable.new_file(path) as aside:
        with pyarrow.parquet.ParquetWriter(aside, _SCHEMA, compression="zstd") as writer:

            def append(documents: Sequence[CorpusDocument], bands: Keys) -> None:
                texts = [document.text for document in documents]
                origins = [document.origin for document in documents]
                writer.write_batch(pa.record_batch([texts, origins], schema=_SCHEMA))
                if keys_path is not None:
                    keys.append(np.concatenate([text_keys(texts), bands]))

            yield append
        if keys_path is not None:
            with durable.new_file(keys_path) as keys_aside, keys_aside.open("wb") as file:
                np.save(file, np.concatenate(keys, axis=1))


def read_piece(path: Path) -> Iterator[list[CorpusDocument]]:
    """The documents in order, in batches; memory of one row group."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            columns = zip(batch["text"].to_pylist(), batch["origin"].to_pylist(), strict=True)
            yield [CorpusDocument(text, origin) for text, origin in columns]


def text_keys(texts: Sequence[str]) -> Keys:
    """The halves of each text's 128-bit hash: [2, texts], the upper first."""
    hashes = [document_hash(text.encode()) for text in texts]
    return np.array(
        [[number >> 64 for number in hashes], [number & _HALF for number in hashes]],
        dtype=np.uint64,
    ).reshape(2, len(hashes))


def keys_file(piece: Path) -> Path:
    """The keys of the piece with these documents."""
    return piece.with_suffix(".keys.npy")


def open_keys(path: Path) -> Keys:
    """The keys [2 + bands, documents], mapped: what is not looked at is not read."""
    keys: Keys = np.load(path, mmap_mode="r")
    return keys
