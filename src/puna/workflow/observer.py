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
    from puna.training.trainer import Trainer


class RunObserver:
    """Base class whose methods do nothing: derive from it and override those of interest.

    They are called in the order in which they stand here, in the thread that runs. Steps that are
    not needed send nothing: a tokenizer or a corpus that is on disk already is only opened.
    """

    def tokenizer_training(self, vocab_size: int) -> None:
        """A tokenizer of `vocab_size` entries is about to be trained."""

    def tokenizer_trained(self, folder: Path, tokenizer: "Tokenizer") -> None:
        """The tokenizer has been saved in `folder`."""

    def corpus_preparing(self, folder: Path) -> None:
        """A corpus is about to be tokenised into `folder`."""

    def corpus_progress(self, progress: "PreparationProgress") -> None:
        """Called after every batch of documents."""

    def corpus_prepared(self, folder: Path, manifest: "Manifest") -> None:
        """The corpus in `folder` is whole."""

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
