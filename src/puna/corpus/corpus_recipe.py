"""The recipe of a corpus: its sources, the stages that they go through, and the tokenizer.

    out: runs/corpus
    tokenizer: runs/tokenizer
    sources:
      - {name: web, paths: ['crawl/*.warc.gz'], weight: 0.7}
      - {name: books, paths: [books/], weight: 0.3}
    stages:
      normalize: {}
      language: {keep: [en]}
      gopher: {}
      exact_duplicates: {}
      near_duplicates: {}

A stage that is not named is not run; one that is named without options has those of its source. The
order is always that of `Stages`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from puna.config import Config, read_yaml, validate
from puna.corpus.c4_rules import C4Options
from puna.corpus.code_rules import CodeOptions
from puna.corpus.decontamination import DecontaminateOptions
from puna.corpus.gopher_rules import GopherOptions, RepetitionOptions
from puna.corpus.language import LanguageOptions
from puna.corpus.near_duplicates import NearDuplicateOptions
from puna.corpus.normalization import NormalizeOptions
from puna.corpus.personal_data import PersonalDataOptions
from puna.data.left_out import BAD_SHARE
from puna.data.reading import Reading

PIECE_BYTES = 2**26
"""Bytes of text after which a piece of a corpus, and so a shard, ends."""


class CorpusSource(Reading):
    """One source of a corpus: what is read, how, and how much of it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of its folder of shards"
    )
    paths: tuple[str, ...] = Field(
        min_length=1, strict=False, description="files, folders, globs, and addresses of stores"
    )
    format: Literal["by_name", "web", "wiki", "latex", "stack_exchange", "code"] = Field(
        default="by_name", description="of the files, see `read_input.py`"
    )
    weight: float = Field(default=1.0, gt=0, description="in the mixture that training reads")
    share: float = Field(
        default=1.0, gt=0, le=1, description="of its documents, chosen by the hash of their text"
    )


class ExactDuplicateOptions(Config):
    """Options of the stage `exact_duplicates`, which has none."""


class Stages(Config):
    """The stages that are run, in the order of these keys."""

    normalize: NormalizeOptions | None = None
    language: LanguageOptions | None = None
    gopher: GopherOptions | None = None
    repetition: RepetitionOptions | None = None
    c4: C4Options | None = None
    code: CodeOptions | None = None
    decontaminate: DecontaminateOptions | None = None
    personal_data: PersonalDataOptions | None = None
    exact_duplicates: ExactDuplicateOptions | None = None
    near_duplicates: NearDuplicateOptions | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _named_alone(cls, options: Any) -> Any:
        """`gopher:` with nothing behind it is the stage with its defaults."""
        return {} if options is None else options

    @property
    def compared(self) -> tuple[str, ...]:
        """The stages that compare documents with each other."""
        names = ("exact_duplicates", "near_duplicates")
        return tuple(name for name in names if getattr(self, name) is not None)


class PreparationRecipe(Config):
    """All that a corpus depends on."""

    out: Path = Field(strict=False, description="folder of the shards, the counts and the page")
    tokenizer: Path | None = Field(
        default=None, strict=False, description="its folder; none: only the documents are written"
    )
    sources: tuple[CorpusSource, ...] = Field(min_length=1, strict=False)
    stages: Stages = Stages()
    validation_fraction: float = Field(default=0.005, ge=0, lt=1)
    piece_bytes: int = Field(default=PIECE_BYTES, gt=0)
    bad_share: float = Field(default=BAD_SHARE, ge=0, le=1)

    @field_validator("sources")
    @classmethod
    def _own_names(cls, sources: tuple[CorpusSource, ...]) -> tuple[CorpusSource, ...]:
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"the sources are called {', '.join(names)}; give each its own name")
        return sources


def load_preparation_recipe(path: Path) -> PreparationRecipe:
    """Read and check a recipe. Raises ConfigError with every broken rule."""
    return validate(PreparationRecipe, read_yaml(path), str(path))
