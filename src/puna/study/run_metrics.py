"""The metrics of a run, at its end and at the looks before it: the names that a study's `metric`
and `also` may hold.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from puna.data import recall
from puna.data.additions import Additions
from puna.errors import ConfigError
from puna.eval.bits_per_byte import Score, on_lines_with_digits, sum_losses, token_losses
from puna.eval.exact_match import exact_match
from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class StudyText:
    """The text that the runs of a study are measured on: all of the validation split.

    ids [N]: its documents one after another. documents [N]: the number of each id's document.
    out_of_domain [M]: ids of text from other sources than the training text, or None where the
    study names none. additions: the forms of sums in the training text.
    """

    tokenizer: Tokenizer
    ids: NDArray[np.int64]
    documents: NDArray[np.int64]
    out_of_domain: NDArray[np.int64] | None = None
    additions: tuple[Additions, ...] = ()

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the bytes of all this text, the same for every tokenizer."""
        digest = hashlib.sha256()
        for ids in (self.ids, self.out_of_domain):
            if ids is not None:
                digest.update(self.tokenizer.decode_bytes(ids.tolist(), skip_special=True) + b"\0")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class MeasuredModel:
    """A model with the text that it is measured on. context: T, tokens a training sequence."""

    model: Transformer
    text: StudyText
    context: int

    @cached_property
    def losses(self) -> NDArray[np.float32]:
        """Nats of each id but the first, in windows of the trained length: [N - 1]."""
        return token_losses(self.model, self.text.ids, context=self.context)

    @cached_property
    def longer_losses(self) -> NDArray[np.float32]:
        """The same in windows of twice the trained length."""
        return token_losses(self.model, self.text.ids, context=2 * self.context)

    def score(self, losses: NDArray[np.float32], only: NDArray[np.bool_] | None = None) -> Score:
        """The sum over the validation text, or over the targets `only`."""
        return sum_losses(losses, self.text.ids, self.text.tokenizer.token_lengths(), only)

    def between(self, start: float, end: float) -> Score:
        """The score of what is predicted at positions from `start` T to before `end` T of windows
        of 2 T.
        """
        position = np.arange(len(self.text.ids) - 1) % (2 * self.context)
        inside = (position >= start * self.context) & (position < end * self.context)
        return self.score(self.longer_losses, inside)

    @property
    def bits_by_document(self) -> list[float]:
        """Bits of loss of each document of the validation text, in the order of the split."""
        text = self.text
        counted = self.losses * (text.tokenizer.token_lengths()[text.ids[1:]] > 0)
        sums = np.bincount(text.documents[1:], counted, minlength=int(text.documents[-1]) + 1)
        return [float(nats) / math.log(2) for nats in sums]

    def out_of_domain(self) -> Score:
        """The score of the text from other sources. Raises ConfigError where there is none."""
        ids = self.text.out_of_domain
        if ids is None:
            raise ConfigError(
                "bits_per_byte_out_of_domain needs text: name its sources in study.yaml, such as"
                " out_of_domain: [site-packages-docs]"
            )
        losses = token_losses(self.model, ids, context=self.context)
        return sum_losses(losses, ids, self.text.tokenizer.token_lengths())

    def addition_exact_match(self) -> float:
        """The share of held-out sums that it gets right, in the form of its training text. Raises
        ConfigError where that has none, or several.
        """
        if len(self.text.additions) != 1:
            found = " and ".join(map(str, self.text.additions)) or "none"
            raise ConfigError(
                "addition_exact_match asks for sums as the training text writes them, but"
                f" data.mixture holds {found}: give it one source of sums, such as additions or"
                " additions:4:reversed"
            )
        return exact_match(self.model, self.text.tokenizer, self.text.additions[0].questions())


@dataclass(frozen=True)
class Metric:
    """One number of a model. meaning: for the report's reader."""

    unit: str
    meaning: str
    measure: Callable[[MeasuredModel], float]
    lower_is_better: bool = True


def _recall(distance: int) -> Metric:
    """The metric that asks for a value planted `distance` bytes before."""

    def measure(run: MeasuredModel) -> float:
        return exact_match(run.model, run.text.tokenizer, recall.questions(distance))

    return Metric(
        "share right",
        f"of {recall.QUESTIONS} values to recall, planted {distance} bytes before, continued"
        " greedily",
        measure,
        lower_is_better=False,
    )


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "bits_per_byte": Metric(
            "bits per byte",
            "on validation text, in windows of the trained length",
            lambda run: run.score(run.losses).bits_per_byte,
        ),
        "loss": Metric(
            "nats per token",
            "on validation text; compares only where the tokenizer is the same",
            lambda run: run.score(run.losses).loss,
        ),
        "bits_per_byte_2x": Metric(
            "bits per byte",
            "on the same text in windows of twice the trained length",
            lambda run: run.score(run.longer_losses).bits_per_byte,
        ),
        "bits_per_byte_4x": Metric(
            "bits per byte",
            "on the same text in windows of four times the trained length",
            lambda run: (
                run.score(
                    token_losses(run.model, run.text.ids, context=4 * run.context)
                ).bits_per_byte
            ),
        ),
        "bits_per_byte_first_half": Metric(
            "bits per byte",
            "of what is predicted in the first half of the trained positions",
            lambda run: run.between(0, 0.5).bits_per_byte,
        ),
        "bits_per_byte_second_half": Metric(
            "bits per byte",
            "of what is predicted in the second half of the trained positions",
            lambda run: run.between(0.5, 1).bits_per_byte,
        ),
        "bits_per_byte_beyond": Metric(
            "bits per byte",
            "of what is predicted at positions from the trained length to twice it",
            lambda run: run.between(1, 2).bits_per_byte,
        ),
        "bits_per_byte_out_of_domain": Metric(
            "bits per byte",
            "on text from other sources than the training text",
            lambda run: run.out_of_domain().bits_per_byte,
        ),
        "bits_per_byte_numbers": Metric(
            "bits per byte",
            "on those lines of the validation text that hold a digit",
            lambda run: (
                run.score(
                    run.losses, on_lines_with_digits(run.text.ids, run.text.tokenizer)[1:]
                ).bits_per_byte
            ),
        ),
        "addition_exact_match": Metric(
            "share right",
            "of about a thousand sums that no training text holds, continued greedily",
            MeasuredModel.addition_exact_match,
            lower_is_better=False,
        ),
        **{f"recall_{distance}": _recall(distance) for distance in recall.DISTANCES},
    }
)
