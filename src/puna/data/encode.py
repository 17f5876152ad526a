"""Texts to token ids on several processes, in order, with a bounded number of batches under way.

Not here: shards. Cost: a worker takes half a second to start and, with the words that it remembers,
up to 170 MB of memory. Two batches a worker are under way, so memory does not grow with the corpus.

Workers are started afresh (see `puna.spawn`) and end when this process does, even when it is
killed.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from puna.data.manifest import storage_of
from puna.errors import DataError
from puna.spawn import SpawnedPool
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.word_ids import DocumentEncoder

Label = TypeVar("Label")

_BATCHES_PER_WORKER = 2


class Encoded(NamedTuple):
    """The documents of one batch, one after the other."""

    ids: npt.NDArray[Any]
    """Token ids [N] in the storage type; each document with its markers around it."""

    ends: list[int]
    """Ends of the documents in `ids`, in order, after a leading 0."""

    def documents(self) -> Iterator[npt.NDArray[Any]]:
        """The ids of each document, as views."""
        return (self.ids[begin:end] for begin, end in itertools.pairwise(self.ends))


def encode_batches(
    batches: Iterable[tuple[list[str], Label]],
    tokenizer_folder: Path,
    workers: int,
) -> Iterator[tuple[Encoded, Label]]:
    """Encode each batch of texts as documents; the label that came with a batch leaves with it, in
    the same order.

    workers: processes to start; 1 encodes in this process.
    Raises DataError when a worker dies, PunaError when the script has no main guard. Workers run
    until the iterator is exhausted or closed.
    """
    if workers == 1:
        for texts, label in batches:
            yield _encode(tokenizer_folder, texts), label
        return
    under_way: deque[tuple[Future[Encoded], Label]] = deque()
    with SpawnedPool(workers, start_worker) as pool:
        try:
            for texts, label in batches:
                with _interrupts_held_back():  # a submission may start a worker
                    future = pool.submit(_encode, tokenizer_folder, texts)
                under_way.append((future, label))
                if len(under_way) > _BATCHES_PER_WORKER * workers:
                    yield _oldest(under_way)
            while under_way:
                yield _oldest(under_way)
        except BrokenProcessPool as error:
            raise DataError(
                f"one of {workers} tokenising processes was ended, most likely for want of memory;"
                " use fewer workers"
            ) from error


def available_cores() -> int:
    """The cores that this process may run on, which on a shared machine are fewer than it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _oldest(under_way: deque[tuple[Future[Encoded], Label]]) -> tuple[Encoded, Label]:
    future, label = under_way.popleft()
    return future.result(), label


def _encode(tokenizer_folder: Path, texts: list[str]) -> Encoded:
    encoder = load_encoder(tokenizer_folder)
    documents = encoder.encode(texts)
    ends = itertools.accumulate(map(len, documents), initial=0)
    return Encoded(np.concatenate([np.empty(0, encoder.storage), *documents]), list(ends))


@lru_cache(maxsize=1)
def load_encoder(tokenizer_folder: Path) -> DocumentEncoder:
    """The encoder of a folder's tokenizer, which each process has once."""
    tokenizer = Tokenizer.load(tokenizer_folder)
    return DocumentEncoder(tokenizer, storage_of(tokenizer.vocab_size))


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold SIGINT back in this thread and in processes that it starts meanwhile.

    A process inherits the mask. So Ctrl-C in the half second that a worker takes to start does not
    end it with a traceback of its own before `start_worker` ignores the signal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker() -> None:
    """Prepare a process of a pool: one core, no Ctrl-C of its own, an end with its parent's."""
    # one core a worker: the pool is what is parallel
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C reaches the whole group; the parent decides what ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker of a killed parent would wait for its next batch for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a pool's worker has a parent"
    parent.join()
    os._exit(1)
