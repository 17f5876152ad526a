"""A trainer's view of the other packages: batches, validation, tokenizer files, and who is told."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Int
from numpy.typing import NDArray

from puna.model.transformer import Transformer


@dataclass(frozen=True)
class Validation:
    """Result of a validation. loss: nats per token; bits_per_byte: over the text's UTF-8 bytes.

    targets, all_targets: the tokens that were predicted, special ones included, and those that the
    held-out text has.
    """

    loss: float
    bits_per_byte: float
    targets: int
    all_targets: int


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run from the data and tokenizer packages.

    batch: (step) -> ids [B, context + 1], a pure function; of several ranks, this one's part of
    train.batch_size. validation_tokens: that
    `validate` scores, about. bytes_per_token: of the training text, to show bits per byte.
    write_tokenizer: adds the tokenizer's files to a model
    folder. special_ids: `bos_id` and `eos_ids` for `write_model`. tokenizer_hash: `Tokenizer.hash`.
    """

    batch: Callable[[int], Int[NDArray[Any], "B T+1"]]
    validate: Callable[[Transformer], Validation]
    validation_tokens: int
    bytes_per_token: float
    data_hash: str
    write_tokenizer: Callable[[Path], None]
    special_ids: dict[str, Any]
    tokenizer_hash: str


class Observer(Protocol):
    """Receiver of a run's records and checkpoints."""

    def logged(self, record: dict[str, Any]) -> None:
        """A record was added to metrics.jsonl."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written to this folder."""
