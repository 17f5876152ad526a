"""Manifest of a folder of shards: its content, which `prepare` writes last and every reader reads
first.

    DIR/manifest.json            this file's `Manifest`
    DIR/tokenizer.json           the tokenizer that made the ids, and its tokenizer_config.json
    DIR/train-00000.tokens       little-endian ids: uint16 for a vocabulary of up to 65,536 tokens,
        uint32 beyond
    DIR/train-00000.offsets      where each document of the shard begins, then its end: documents +
        1 uint64
    DIR/validation-00000.tokens  and so on

A document is <|begin_of_text|> ids <|end_of_text|> (without the first in a vocabulary that has
none), and never spans two shards. `bytes` always counts the UTF-8 bytes of the text, special tokens
excluded: the unit of bits per byte.

What it is not: it does not open the shards (`shards.py` does).
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from puna.config import Config
from puna.data.left_out import KINDS, LeftOutKind, report_lines
from puna.data.reading import Reading
from puna.errors import DataError

MANIFEST_NAME = "manifest.json"

SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")


class Shard(Config):
    """One pair of shard files: `NAME.tokens` and `NAME.offsets`."""

    name: str
    tokens: int = Field(gt=0)
    documents: int = Field(gt=0)
    bytes: int = Field(gt=0)
    tokens_xxh3: str
    """128-bit xxh3 of the tokens file, 32 hex digits."""
    offsets_xxh3: str
    """128-bit xxh3 of the offsets file, 32 hex digits."""


class Split(Config):
    """The shards of one split in reading order, and their sums."""

    documents: int
    tokens: int
    bytes: int
    shards: tuple[Shard, ...]

    @classmethod
    def of(cls, shards: tuple[Shard, ...]) -> Self:
        """The split that consists of `shards`."""
        return cls(
            documents=sum(shard.documents for shard in shards),
            tokens=sum(shard.tokens for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            shards=shards,
        )

    @model_validator(mode="after")
    def _sums_agree(self) -> Self:
        for unit in ("documents", "tokens", "bytes"):
            total = sum(getattr(shard, unit) for shard in self.shards)
            if getattr(self, unit) != total:
                raise ValueError(
                    f"{unit} is {getattr(self, unit)}, but its shards add up to {total}"
                )
        return self


class SourceRecord(Config):
    """A source as it was when it was read."""

    name: str
    files: int
    size: int
    """Bytes as stored, compressed where the files are."""
    files_hash: str
    """`Source.fingerprint`: the files' names, sizes and modification times."""


class Inputs(Reading):
    """All that the shards depend on: the same inputs give the same bytes."""

    sources: tuple[SourceRecord, ...]
    validation_sources: tuple[SourceRecord, ...] = ()
    """Texts that are held out whole; of the sources then nothing is, and the fraction is 0."""
    tokenizer_hash: str
    vocab_size: int = Field(gt=0, le=2**32)
    validation_fraction: float = Field(ge=0, lt=1)
    max_bytes: int | None = Field(gt=0)
    max_documents: int | None = Field(default=None, gt=0)
    spread: bool = False
    """Files were read in the order of a hash of their names, as they are where a limit ends the
    reading.
    """
    shard_tokens: int = Field(gt=0)

    @property
    def holds_out(self) -> bool:
        """True where a validation split was asked for."""
        return bool(self.validation_sources) or self.validation_fraction > 0

    def differences(self, other: "Inputs") -> list[str]:
        """The differences, in words; a source's spelling does not count, its files do."""
        found = []
        for kind, before, now in (
            ("sources", self.sources, other.sources),
            ("validation sources", self.validation_sources, other.validation_sources),
        ):
            if len(before) != len(now):
                found.append(f"{len(before)} {kind} became {len(now)}")
            for ours, theirs in zip(before, now, strict=False):
                if ours.files_hash != theirs.files_hash:
                    found.append(
                        f"the files of {theirs.name} are not those that were read as {ours.name}"
                    )
        for name in (
            "tokenizer_hash",
            *Reading.model_fields,
            "validation_fraction",
            "max_bytes",
            "max_documents",
            "spread",
            "shard_tokens",
        ):
            was, is_now = getattr(self, name), getattr(other, name)
            if was != is_now:
                found.append(f"{name} was {was} and is {is_now}")
        return found


class Manifest(Config):
    """The content of a folder of shards. Immutable; equal content has an equal `content_hash`."""

    format: Literal[1]
    inputs: Inputs
    dtype: Literal["uint16", "uint32"]
    splits: dict[SplitName, Split]
    duplicates: int
    """Documents left out because their text was there before."""
    not_utf8: int
    """Files and rows left out because they are not UTF-8."""
    empty: int
    """Documents left out because they hold nothing but white space."""
    binary: int = 0
    damaged: int = 0
    """Files and rows left out because they cannot be read, or have no text."""
    links: int = 0
    other_splits: int = 0
    own_files: int = 0
    examples: dict[LeftOutKind, tuple[str, ...]] = Field(default_factory=dict)
    """The first names of each kind of what was left out."""
    cut: bool = False
    """True where the end of one document was held out, and the rest of it is training text."""

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read `folder`/manifest.json; DataError if it is missing, damaged or of another format
        version.
        """
        path = Path(folder) / MANIFEST_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"{folder} has no {MANIFEST_NAME}; run `puna data prepare` to its end first"
            ) from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise DataError(
                f"{path} is not a manifest of format 1: {where} {problem['msg']}"
            ) from error

    def left_out_lines(self) -> list[str]:
        """The report of what was left out, see `report_lines`."""
        return report_lines({kind: getattr(self, kind) for kind in KINDS}, self.examples)

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type of the tokens files."""
        return storage_of(self.inputs.vocab_size)

    @property
    def lacks_validation(self) -> bool:
        """True where a validation split was asked for and came out empty."""
        return self.inputs.holds_out and not self.splits["validation"].shards

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of tokenizer and shards: equal for equal data wherever it was made; a
        model's provenance.
        """
        parts = [self.inputs.tokenizer_hash]
        for split in SPLITS:
            parts += [
                split,
                *(shard.tokens_xxh3 + shard.offsets_xxh3 for shard in self.splits[split].shards),
            ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def dtype_of(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The narrower type that holds every id below `vocab_size`."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def storage_of(vocab_size: int) -> np.dtype[Any]:
    """The same type for numpy, little-endian as on disk."""
    return np.dtype(dtype_of(vocab_size)).newbyteorder("<")
