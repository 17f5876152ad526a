"""Summary of a corpus, written last: its inputs, and what every stage did to every source.

OUT/corpus.json          `CorpusSummary`
OUT/work/inputs.json     `CorpusInputs` of a corpus that is not finished
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from puna import durable
from puna.config import Config
from puna.corpus.corpus_recipe import CorpusSource, PreparationRecipe
from puna.corpus.filter_task import DOCUMENT_STAGES
from puna.corpus.finish_task import NO_LIMIT, REASONS
from puna.corpus.input_files import InputFiles
from puna.corpus.tally import StageCounts, summed
from puna.data.left_out import KINDS, LeftOutKind
from puna.data.manifest import (
    MANIFEST_NAME,
    Inputs,
    Manifest,
    Shard,
    SourceRecord,
    Split,
    SplitName,
    dtype_of,
)
from puna.data.reading import Reading
from puna.data.sources import find_sources
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer

STAGE_ORDER = (
    "read",
    *(name for name, _ in DOCUMENT_STAGES),
    "sample",
    *REASONS,
    "tokenize",
)
SUMMARY_NAME = "corpus.json"
INPUTS_NAME = "inputs.json"
EVALUATIONS = "the evaluations"
"""Of `CorpusInputs.files`; no name of a source has a space."""


class CorpusInputs(Config):
    """All that the shards depend on."""

    recipe: dict[str, Any]
    """Its values as JSON, without the folders."""
    files: dict[str, str]
    """Of each source, and of the evaluations that are kept out, the fingerprint of its files."""
    tokenizer_hash: str | None

    @classmethod
    def of(
        cls, recipe: PreparationRecipe, files: Sequence[InputFiles], tokenizer: Tokenizer | None
    ) -> Self:
        """The inputs of this recipe now."""
        names = [source.name for source in recipe.sources]
        fingerprints = {name: found.files_hash for name, found in zip(names, files, strict=True)}
        if recipe.stages.decontaminate is not None:
            texts = find_sources(recipe.stages.decontaminate.texts)
            fingerprints[EVALUATIONS] = " ".join(source.fingerprint for source in texts)
        return cls(
            # through JSON, so that it equals what is read back
            recipe=json.loads(recipe.model_dump_json(exclude={"out", "tokenizer"})),
            files=fingerprints,
            tokenizer_hash=None if tokenizer is None else tokenizer.hash,
        )

    def require_same(self, now: "CorpusInputs", out: Path) -> None:
        """Raise DataError where a folder that was begun from these is asked to go on with
        others.
        """
        differences = [
            f"{key} was {self.recipe.get(key)} and is {now.recipe.get(key)}"
            for key in sorted({*self.recipe, *now.recipe})
            if self.recipe.get(key) != now.recipe.get(key)
        ]
        differences += [
            f"the files of {name} have changed"
            for name in now.files
            if name in self.files and self.files[name] != now.files[name]
        ]
        if self.tokenizer_hash != now.tokenizer_hash:
            differences.append("the tokenizer is another one")
        if differences:
            raise DataError(
                f"{out} was begun from other inputs: {'; '.join(differences)}; give another folder,"
                f" or delete {out}"
            )


class SourceSummary(Config):
    """The outcome of one source."""

    name: str
    weight: float
    files: int
    size: int
    """Bytes as stored."""
    stages: StageCounts
    left_out: dict[LeftOutKind, int]
    examples: dict[LeftOutKind, tuple[str, ...]]
    """The first names of each kind of what was not read."""


class CorpusSummary(Config):
    """The outcome of a whole corpus."""

    format: Literal[1] = 1
    inputs: CorpusInputs
    sources: tuple[SourceSummary, ...]

    @property
    def stages(self) -> StageCounts:
        """The counts of all sources together, in the order of the stages."""
        counts = summed(source.stages for source in self.sources)
        # a source of which all is taken has no `sample`, and may be the first
        return {name: counts[name] for name in STAGE_ORDER if name in counts}

    @classmethod
    def load(cls, out: Path) -> Self:
        """Read `out`/corpus.json. Raises DataError where it is missing or damaged."""
        summary: Self = _read(cls, out / SUMMARY_NAME, f"{out} is no finished corpus")
        return summary


def begun_inputs(work: Path, inputs: CorpusInputs, out: Path) -> None:
    """Begin the folder `work`, or go on with it. Raises DataError where it was begun from other
    inputs.
    """
    path = work / INPUTS_NAME
    if path.exists():
        _read(CorpusInputs, path, f"{work} is damaged").require_same(inputs, out)
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise DataError(
            f"{out} holds files, but no corpus that could be continued; give an empty or new folder"
        )
    else:
        durable.write_json(path, inputs.model_dump(mode="json"))


def _read(cls: Any, path: Path, problem: str) -> Any:
    try:
        return cls.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{problem}: cannot read {path}: {error.strerror}; run `puna data prepare RECIPE` to"
            " its end first"
        ) from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged; delete its folder and prepare it again") from error


def write_manifest(
    folder: Path,
    source: CorpusSource,
    summary: SourceSummary,
    inputs: CorpusInputs,
    shards: dict[SplitName, list[Shard]],
    cut: bool,
    tokenizer: Tokenizer,
) -> Manifest:
    """Write the manifest that makes a source's folder one of shards, as training reads them. cut:
    the end of one document was held out.
    """
    repeats = (summary.stages.get(name) for name in ("exact_duplicates", "near_duplicates"))
    not_read: dict[str, Any] = {kind: summary.left_out.get(kind, 0) for kind in KINDS}
    not_read["duplicates"] = sum(
        count.documents_in - count.documents_out for count in repeats if count is not None
    )
    manifest = Manifest(
        format=1,
        inputs=Inputs(
            sources=(
                SourceRecord(
                    name=", ".join(source.paths),
                    files=summary.files,
                    size=summary.size,
                    files_hash=inputs.fingerprint(),
                ),
            ),
            tokenizer_hash=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            **source.model_dump(include=set(Reading.model_fields)),
            validation_fraction=inputs.recipe["validation_fraction"],
            max_bytes=None,
            shard_tokens=NO_LIMIT,
        ),
        dtype=dtype_of(tokenizer.vocab_size),
        splits={split: Split.of(tuple(found)) for split, found in shards.items()},
        examples=summary.examples,
        cut=cut,
        **not_read,
    )
    durable.write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest
