"""The metrics of a finished run: the names that a study's `metric` and `also` may hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from puna.data.additions import held_out_pairs
from puna.eval.addition import addition_exact_match
from puna.eval.bits_per_byte import Score, on_lines_with_digits, score_tokens
from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class FinishedRun:
    """A trained model with the text that it is measured on: ids [N] of the validation split.

    context: tokens a training sequence.
    """

    model: Transformer
    tokenizer: Tokenizer
    ids: NDArray[np.int64]
    context: int

    def score(self, windows: int = 1, only: NDArray[np.bool_] | None = None) -> Score:
        """In windows of `windows` times the trained length."""
        return score_tokens(
            self.model,
            self.ids,
            self.tokenizer.token_lengths(),
            context=windows * self.context,
            only=only,
        )

    @cached_property
    def validation(self) -> Score:
        """In windows of the trained length; computed once."""
        return self.score()


@dataclass(frozen=True)
class Metric:
    """One number of a finished run. meaning: for the report's reader."""

    unit: str
    meaning: str
    measure: Callable[[FinishedRun], float]
    lower_is_better: bool = True


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "bits_per_byte": Metric(
            "bits per byte",
            "on validation text, in windows of the trained length",
            lambda run: run.validation.bits_per_byte,
        ),
        "loss": Metric(
            "nats per token",
            "on validation text; compares only where the tokenizer is the same",
            lambda run: run.validation.loss,
        ),
        "bits_per_byte_2x": Metric(
            "bits per byte",
            "on the same text in windows of twice the trained length",
            lambda run: run.score(2).bits_per_byte,
        ),
        "bits_per_byte_4x": Metric(
            "bits per byte",
            "on the same text in windows of four times the trained length",
            lambda run: run.score(4).bits_per_byte,
        ),
        "bits_per_byte_numbers": Metric(
            "bits per byte",
            "on those lines of the validation text that hold a digit",
            lambda run: run.score(only=on_lines_with_digits(run.ids, run.tokenizer)).bits_per_byte,
        ),
        "addition_exact_match": Metric(
            "share right",
            "of about a thousand sums that no training text holds, continued greedily",
            lambda run: addition_exact_match(run.model, run.tokenizer, held_out_pairs()),
            lower_is_better=False,
        ),
    }
)
