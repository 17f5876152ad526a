"""Metrics of a run: which targets count, at which positions, on which text."""

import math
from dataclasses import replace

import numpy as np
import pytest
from said import said

from puna.errors import ConfigError
from puna.eval.bits_per_byte import score_tokens
from puna.inference.language_model import LanguageModel
from puna.study.run_metrics import METRICS, MeasuredModel, StudyText

CONTEXT = 24  # a quarter of the model's
LENGTH = 500  # of the text: no multiple of a window


@pytest.fixture
def measured(tiny_llama: LanguageModel) -> MeasuredModel:
    """The small model on a text of three documents, each with a begin token in front."""
    tokenizer = tiny_llama.tokenizer
    documents = [tokenizer.encode_document(text) for text in ("the llama " * 90, "reads", "old 7")]
    ids = np.array([id_ for document in documents for id_ in document], dtype=np.int64)
    numbers = np.repeat(np.arange(3), [len(document) for document in documents])
    text = StudyText(tokenizer, ids[-LENGTH:], numbers[-LENGTH:])
    return MeasuredModel(tiny_llama.model, text, CONTEXT)


def test_both_halves_and_what_lies_beyond_make_up_the_windows_of_twice_the_length(
    measured: MeasuredModel,
) -> None:
    halves = [measured.between(0, 0.5), measured.between(0.5, 1), measured.between(1, 2)]
    whole = measured.score(measured.longer_losses)
    assert sum(part.tokens for part in halves) == whole.tokens
    assert sum(part.bytes for part in halves) == whole.bytes
    assert sum(part.nats for part in halves) == pytest.approx(whole.nats, rel=1e-9)
    names = ("first_half", "second_half", "beyond")
    for name, part in zip(names, halves, strict=True):
        found = METRICS[f"bits_per_byte_{name}"].measure(measured)
        assert found == part.bits_per_byte
    assert METRICS["bits_per_byte_2x"].measure(measured) == whole.bits_per_byte


def test_a_position_is_that_within_its_window(measured: MeasuredModel) -> None:
    """Target by target: the first half of the trained length of each window of twice that."""
    lengths = measured.text.tokenizer.token_lengths()[measured.text.ids[1:]]
    nats, size = 0.0, 0
    for index, (loss, length) in enumerate(zip(measured.longer_losses, lengths, strict=True)):
        if length and index % (2 * CONTEXT) < CONTEXT // 2:
            nats, size = nats + float(loss), size + int(length)
    expected = nats / math.log(2) / size
    assert METRICS["bits_per_byte_first_half"].measure(measured) == pytest.approx(expected)


def test_the_first_half_does_not_depend_on_the_second(measured: MeasuredModel) -> None:
    """A target at a position below T has the same context in windows of T and of 2 T."""
    inside = np.arange(LENGTH - 1) % (2 * CONTEXT) < CONTEXT
    np.testing.assert_allclose(measured.losses[inside], measured.longer_losses[inside], rtol=1e-3)
    assert not np.allclose(measured.losses[~inside], measured.longer_losses[~inside], rtol=1e-3)


def test_longer_windows_are_multiples_of_the_trained_one(measured: MeasuredModel) -> None:
    lengths = measured.text.tokenizer.token_lengths()
    for name, factor in (("", 1), ("_2x", 2), ("_4x", 4)):
        expected = score_tokens(
            measured.model, measured.text.ids, lengths, context=factor * CONTEXT
        )
        found = METRICS[f"bits_per_byte{name}"].measure(measured)
        assert found == pytest.approx(expected.bits_per_byte)


def test_bits_by_document_are_those_of_its_targets(measured: MeasuredModel) -> None:
    """The first id of the text is no target; begin tokens are no text."""
    text = measured.text
    lengths = text.tokenizer.token_lengths()[text.ids[1:]]
    for document, bits in enumerate(measured.bits_by_document):
        counted = (text.documents[1:] == document) & (lengths > 0)
        expected = measured.losses[counted].sum(dtype=np.float64) / math.log(2)
        assert bits == pytest.approx(expected)
    assert len(measured.bits_by_document) == 3


def test_other_text_is_scored_by_itself(measured: MeasuredModel) -> None:
    other = np.array(measured.text.tokenizer.encode_document("東京 мир " * 9), dtype=np.int64)
    beside = replace(measured, text=replace(measured.text, out_of_domain=other))
    lengths = measured.text.tokenizer.token_lengths()
    expected = score_tokens(measured.model, other, lengths, context=CONTEXT).bits_per_byte
    metric = METRICS["bits_per_byte_out_of_domain"]
    assert metric.measure(beside) == pytest.approx(expected)
    assert METRICS["bits_per_byte"].measure(beside) == METRICS["bits_per_byte"].measure(measured)


def test_without_other_text_the_metric_says_how_to_name_some(measured: MeasuredModel) -> None:
    with pytest.raises(ConfigError, match=said("needs text ... study.yaml ... out_of_domain:")):
        METRICS["bits_per_byte_out_of_domain"].measure(measured)
