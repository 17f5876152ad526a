"""Observer of a run: the events of data preparation, training and measurement, for progress bars,
logs and dashboards.

An observer only receives; it decides nothing. What it raises ends the run as any other error does.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puna.data.manifest import Manifest
    from puna.data.prepare import PreparationProgress
    from puna.tokenizer.tokenizer import Tokenizer
    from puna.training.recipe import TokenizerRecipe
    from puna.training.trainer import Trainer


class RunObserver:
    """Base class whose methods do nothing: derive from it and override those of interest.

    They are called in the order in which they stand here, in the thread that runs. Steps that are
    not needed send nothing, but what is on disk already is never used without a word.
    """

    def tokenizer_training(self, vocab_size: int) -> None:
        """A tokenizer of `vocab_size` entries is about to be trained."""

    def tokenizer_progress(self, read: int, size: int) -> None:
        """Called after every stretch of text: the bytes read, of about `size`. The merges are
        learned after the last call.
        """

    def tokenizer_trained(self, folder: Path, tokenizer: "Tokenizer") -> None:
        """The tokenizer has been saved in `folder`."""

    def tokenizer_reused(
        self, folder: Path, tokenizer: "Tokenizer", recipe: "TokenizerRecipe"
    ) -> None:
        """The tokenizer in `folder` is used as it is; the recipe may ask for another."""

    def vocabulary_unused(self, entries: int, model_entries: int) -> None:
        """The tokenizer has fewer entries than the model's vocabulary."""

    def corpus_reused(self, folder: Path, manifest: "Manifest", changed: bool) -> None:
        """The shards in `folder` are used as they are. changed: files of their sources were
        altered, added or removed since.
        """

    def corpus_outdated(self, folder: Path, reasons: list[str]) -> None:
        """The shards in `folder` are not what the recipe asks for, and are prepared again."""

    def corpus_preparing(self, folder: Path) -> None:
        """A corpus is about to be tokenised into `folder`."""

    def corpus_progress(self, progress: "PreparationProgress") -> None:
        """Called after every batch of documents."""

    def corpus_prepared(self, folder: Path, manifest: "Manifest") -> None:
        """The corpus in `folder` is whole."""

    def measuring_baselines(self) -> None:
        """The baselines that first read the training text are about to be measured."""

    def training(self, trainer: "Trainer") -> None:
        """The first step is about to be taken, or the first one after a resume."""

    def logged(self, record: dict[str, Any]) -> None:
        """A record was added to metrics.jsonl: its `kind` is `train` or `validation`."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""

    def trained(self, finished: bool) -> None:
        """Training has ended: at the recipe's last step, or (finished False) when asked to stop."""

    def measuring(self) -> None:
        """The finished model is about to be scored on validation text."""

    def sampling(self) -> None:
        """The finished model is about to generate its sample texts."""
