"""Shards on disk: written one by one, read as one long sequence of token ids.

What it is not: it neither tokenises (`prepare.py`) nor decides what is read when (`loader.py`).

Cost: writing holds one shard in memory. Reading maps the files, so it costs what the operating
system's page cache costs, and 30 us to map a shard that is not among the 64 last used. Checking the
checksums on opening reads every shard once, at the speed of the disk.
"""

import itertools
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from puna import durable
from puna.data.manifest import SPLITS, Manifest, Shard, SplitName
from puna.errors import DataError

_MAPPED_SHARDS = 64
_OFFSET = np.dtype("<u8")


class ShardWriter:
    """Gathers documents into shards of one split; each finished shard is on disk, whole, before it
    is announced.

    A shard ends with the document that brings it to `shard_tokens`, so the same documents in the
    same order always give the same bytes.
    """

    def __init__(
        self,
        folder: Path,
        split: SplitName,
        shard_tokens: int,
        first: int,
        on_shard: Callable[[SplitName, Shard], None],
    ) -> None:
        """Begin with shard number `first`; `on_shard` is called after each shard was written."""
        self._folder, self._split, self._shard_tokens = folder, split, shard_tokens
        self._number, self._on_shard = first, on_shard
        self._clear()

    def add(self, ids: npt.NDArray[Any], text_bytes: int) -> None:
        """Append one document: its ids in the storage type, and the UTF-8 bytes of its text."""
        self._tokens += ids.tobytes()
        self._ends.append(self._ends[-1] + len(ids))
        self._bytes += text_bytes
        if self._ends[-1] >= self._shard_tokens:
            self.finish()

    def finish(self) -> None:
        """Write what was gathered as a shard, which may be shorter than the others; nothing if
        there is nothing.
        """
        if len(self._ends) == 1:
            return
        name = f"{self._split}-{self._number:05d}"
        # ends holds a leading 0, so documents + 1 offsets; little-endian on every machine
        offsets = np.asarray(self._ends, dtype=_OFFSET).tobytes()
        for suffix, content in ((".tokens", self._tokens), (".offsets", offsets)):
            with durable.new_file(self._folder / (name + suffix)) as aside:
                aside.write_bytes(content)
        shard = Shard(
            name=name,
            tokens=self._ends[-1],
            documents=len(self._ends) - 1,
            bytes=self._bytes,
            tokens_xxh3=xxhash.xxh3_128_hexdigest(self._tokens),
            offsets_xxh3=xxhash.xxh3_128_hexdigest(offsets),
        )
        self._number += 1
        self._clear()
        self._on_shard(self._split, shard)

    def _clear(self) -> None:
        self._tokens, self._ends, self._bytes = bytearray(), array("Q", [0]), 0


class TokenStream:
    """The tokens of one split as one sequence, shard after shard, with random access."""

    def __init__(self, folder: Path, manifest: Manifest, split: SplitName) -> None:
        """Take the shards as the manifest describes them; `open_split` checks that they are so."""
        self.manifest = manifest
        self.split = split
        self._folder = folder
        self._shards = manifest.splits[split].shards
        self._ends = np.cumsum([shard.tokens for shard in self._shards])
        self._map_tokens = lru_cache(maxsize=_MAPPED_SHARDS)(self._map)

    @property
    def num_tokens(self) -> int:
        """Tokens of the split, the markers of its documents included."""
        return self.manifest.splits[self.split].tokens

    @property
    def num_documents(self) -> int:
        """Documents of the split."""
        return self.manifest.splits[self.split].documents

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the split's text, before tokenisation."""
        return self.manifest.splits[self.split].bytes

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """The ids [count] of the tokens from `start` on, across shard borders, as a copy.

        Raises IndexError for a range that is not inside [0, num_tokens).
        """
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise IndexError(f"tokens {start} to {start + count} of a stream of {self.num_tokens}")
        ids = np.empty(count, dtype=np.int64)
        # side="right": a start on a border belongs to the shard that begins there
        shard = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < count:
            begin = int(self._ends[shard]) - self._shards[shard].tokens
            part = self._map_tokens(shard)[start + filled - begin :][: count - filled]
            ids[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
        return ids

    def documents(self) -> Iterator[npt.NDArray[np.int64]]:
        """The ids of each document in order, with the markers around it."""
        for number, shard in enumerate(self._shards):
            tokens = self._map_tokens(number)
            offsets = np.fromfile(self._folder / f"{shard.name}.offsets", dtype=_OFFSET).tolist()
            for begin, end in itertools.pairwise(offsets):
                yield tokens[begin:end].astype(np.int64)

    def _map(self, shard: int) -> npt.NDArray[Any]:
        return np.memmap(
            self._folder / f"{self._shards[shard].name}.tokens",
            dtype=self.manifest.storage,
            mode="r",
        )


def open_split(folder: Path | str, split: SplitName, *, verify: bool = True) -> TokenStream:
    """Open the shards of one split for reading.

    verify: read every shard once and compare its checksum. Without it only the sizes are compared,
    which costs nothing and finds truncated files, but not altered ones; worth leaving out when the
    corpus is larger than memory. Raises DataError for a missing or damaged manifest, for a split
    without documents, and for a missing, truncated or altered shard, by name.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    if not manifest.splits[split].shards:
        total = sum(manifest.splits[name].documents for name in SPLITS)
        raise DataError(
            f"{folder} has no {split} documents (of {total}, with a validation fraction of"
            f" {manifest.inputs.validation_fraction}); prepare it with another fraction or from"
            " more documents"
        )
    check_sizes(folder, manifest, (split,))
    if verify:
        for _ in verify_shards(folder, manifest, (split,)):
            pass
    return TokenStream(folder, manifest, split)


def check_sizes(folder: Path, manifest: Manifest, splits: tuple[SplitName, ...] = SPLITS) -> None:
    """Compare the size of every shard file with the manifest; DataError names the first that
    differs.
    """
    for split in splits:
        for shard in manifest.splits[split].shards:
            for path, expected in _sizes(folder, shard, manifest.storage).items():
                found = path.stat().st_size if path.is_file() else 0
                if found != expected:
                    state = (
                        f"has {found} bytes instead of {expected}"
                        if path.exists()
                        else "is missing"
                    )
                    raise DataError(f"{path} {state}; copy it again or prepare {folder} again")


def is_intact(folder: Path, shard: Shard, storage: np.dtype[Any]) -> bool:
    """True where both files of the shard are there with the right size."""
    sizes = _sizes(folder, shard, storage)
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())


def verify_shards(
    folder: Path, manifest: Manifest, splits: tuple[SplitName, ...] = SPLITS
) -> Iterator[Shard]:
    """Compare the checksum of every shard file with the manifest, yielding each shard that is
    right.

    Raises DataError for the first altered file. The usual mistake: to call it and not iterate,
    which checks nothing.
    """
    for split in splits:
        for shard in manifest.splits[split].shards:
            for suffix, expected in (
                (".tokens", shard.tokens_xxh3),
                (".offsets", shard.offsets_xxh3),
            ):
                path = folder / (shard.name + suffix)
                if _checksum(path) != expected:
                    raise DataError(
                        f"{path} was altered: its checksum is not the manifest's; copy it again or"
                        f" prepare {folder} again"
                    )
            yield shard


def _sizes(folder: Path, shard: Shard, storage: np.dtype[Any]) -> dict[Path, int]:
    return {
        folder / f"{shard.name}.tokens": shard.tokens * storage.itemsize,
        folder / f"{shard.name}.offsets": (shard.documents + 1) * _OFFSET.itemsize,
    }


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; copy it again or prepare its folder again"
        ) from error
    return digest.hexdigest()
