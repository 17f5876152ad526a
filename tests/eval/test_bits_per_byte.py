"""Scores against a plain loop over tokens in float64, and against models whose answer is known;
and which of the scored ids lie on lines with digits.
"""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from said import said

from puna.config import validate
from puna.errors import DataError
from puna.eval.bits_per_byte import (
    Score,
    on_lines_with_digits,
    score_tokens,
    sum_losses,
    token_losses,
    window_losses,
)
from puna.inference.language_model import LanguageModel
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer

VOCAB = 300
# every eleventh is special
LENGTHS = np.array([0 if id_ % 11 == 0 else 1 + id_ % 4 for id_ in range(VOCAB)], dtype=np.int32)


def text(length: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCAB, length)


def plain_score(model: Transformer, ids: NDArray[np.int64], context: int, stride: int) -> Score:
    """One target at a time: from the first window while it reaches, then from the first later one
    that reaches it.
    """
    nats, tokens, size = 0.0, 0, 0
    with torch.inference_mode():
        for target in range(1, len(ids)):
            start = 0
            while start + context < target:
                start += stride
            logits = model(torch.from_numpy(ids[start:target])[None])[0, -1].double()
            if LENGTHS[ids[target]]:
                nats -= torch.log_softmax(logits, -1)[ids[target]].item()
                tokens += 1
                size += int(LENGTHS[ids[target]])
    return Score(nats, tokens, size)


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 16, 17, 18, 50, 65])
@pytest.mark.parametrize(("context", "stride"), [(8, 8), (8, 4), (8, 1), (16, 5), (16, None)])
def test_a_plain_loop_agrees(
    length: int, context: int, stride: int | None, tiny_llama: LanguageModel
) -> None:
    ids = text(length, seed=length)
    ids[1] = 1  # a target that counts
    expected = plain_score(tiny_llama.model, ids, context, stride or context)
    for batch_size in (1, 3, 16):
        found = score_tokens(
            tiny_llama.model, ids, LENGTHS, context=context, stride=stride, batch_size=batch_size
        )
        assert (found.tokens, found.bytes) == (expected.tokens, expected.bytes)
        assert found.nats == pytest.approx(expected.nats, rel=1e-5)


def test_only_the_targets_that_were_asked_for_count(tiny_llama: LanguageModel) -> None:
    """Two complementary masks add up to the whole."""
    ids, context = text(200), 16
    some = np.arange(200) % 3 == 0
    losses = token_losses(tiny_llama.model, ids, context=context)
    whole, *parts = [sum_losses(losses, ids, LENGTHS, only) for only in (None, some[1:], ~some[1:])]
    assert sum(part.tokens for part in parts) == whole.tokens
    assert parts[0].bytes == LENGTHS[ids[1:]][some[1:]].sum()
    assert sum(part.nats for part in parts) == pytest.approx(whole.nats, rel=1e-6)


@pytest.mark.parametrize("length", [17, 40, 49, 50])
def test_without_a_stride_entry_i_is_predicted_at_position_i_modulo_the_context(
    length: int, tiny_llama: LanguageModel
) -> None:
    """Each window begins anew: the entries of one follow from its ids alone."""
    ids, context = text(length, seed=length), 16
    losses = token_losses(tiny_llama.model, ids, context=context, batch_size=2)
    assert (losses.dtype, losses.shape) == (np.float32, (length - 1,))
    for index in range(length - 1):
        seen = ids[index - index % context : index + 1]
        assert len(seen) == index % context + 1
        with torch.inference_mode():
            logits = tiny_llama.model(torch.from_numpy(seen)[None])[0, -1]
        expected = -torch.log_softmax(logits.double(), -1)[ids[index + 1]].item()
        assert losses[index] == pytest.approx(expected, rel=1e-4)


def test_with_a_separator_each_document_of_a_window_begins_anew(tiny_llama: LanguageModel) -> None:
    """Its losses are those of the document alone, and so are those before the first separator."""
    separator, model = 5, tiny_llama.model
    ids = text(61, seed=3)
    ids[ids == separator] = 6
    ids[[13, 29, 30]] = separator
    (masked,) = window_losses(model, [ids], separator=separator)
    for begin, end in ((0, 13), (13, 29), (30, 61)):
        (alone,) = window_losses(model, [ids[begin:end]])
        np.testing.assert_allclose(masked[begin : end - 1], alone, rtol=1e-4, atol=1e-5)
    (across,) = window_losses(model, [ids])
    np.testing.assert_allclose(across[:13], masked[:13], rtol=1e-4, atol=1e-5)
    assert np.abs(across[14:] - masked[14:]).max() > 1e-3


@pytest.mark.parametrize(
    ("ids", "only"),
    [([1, 0, 11], None), ([1, 2, 3], [False, False]), ([1, 0, 3], [True, False])],
    ids=["special tokens alone", "nothing asked for", "a special token asked for"],
)
def test_a_sum_over_no_text_is_rejected(ids: list[int], only: list[bool] | None) -> None:
    losses = np.ones(len(ids) - 1, dtype=np.float32)
    mask = None if only is None else np.array(only)
    with pytest.raises(DataError, match=said("none is text ... no bytes to score")):
        sum_losses(losses, np.array(ids), LENGTHS, mask)


def test_a_sum_is_exact_where_float32_is_not() -> None:
    """2^24 nats and a million ones: in float32 each further one is lost."""
    losses = np.ones(1_000_001, dtype=np.float32)
    losses[0] = 2**24
    found = sum_losses(losses, np.ones(1_000_002, dtype=np.int64), LENGTHS)
    assert found == Score(2**24 + 1_000_000, 1_000_001, 1_000_001 * int(LENGTHS[1]))


def test_every_target_counts_once_and_special_ones_never(tiny_llama: LanguageModel) -> None:
    ids = text(700)
    targets = LENGTHS[ids[1:]]
    for context, stride in ((32, 32), (32, 7), (96, 50)):
        found = score_tokens(tiny_llama.model, ids, LENGTHS, context=context, stride=stride)
        assert found.tokens == (targets > 0).sum()
        assert found.bytes == targets.sum()


def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary() -> None:
    """With all logits equal, log2(V) bits a token."""
    config = validate(
        ModelConfig,
        {"vocab_size": VOCAB, "width": 8, "num_layers": 1, "num_heads": 1, "context_length": 16},
        "test",
    )
    model = build_transformer(config)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    found = score_tokens(model, text(400), LENGTHS, context=16)
    assert found.bits_per_byte == pytest.approx(math.log2(VOCAB) * found.tokens / found.bytes)
    assert found.loss == pytest.approx(math.log(VOCAB))
    assert found.perplexity == pytest.approx(VOCAB, rel=1e-5)


def test_units() -> None:
    score = Score(nats=10 * math.log(2), tokens=4, bytes=5)
    assert score.bits_per_byte == pytest.approx(2.0)
    assert score.loss == pytest.approx(10 * math.log(2) / 4)
    assert score.perplexity == pytest.approx(2**2.5)
    assert math.isfinite(Score(1e9, 1, 1).perplexity)


@pytest.mark.parametrize("ids", [[], [5]])
def test_too_short_a_text(ids: list[int], tiny_llama: LanguageModel) -> None:
    with pytest.raises(
        DataError,
        match=said(f"{len(ids)} tokens ... two"),
    ):
        score_tokens(tiny_llama.model, np.array(ids, dtype=np.int64), LENGTHS, context=8)


def test_special_tokens_alone_have_no_bytes(tiny_llama: LanguageModel) -> None:
    with pytest.raises(DataError, match="none is text"):
        score_tokens(tiny_llama.model, np.array([1, 0, 11, 22]), LENGTHS, context=8)


@pytest.mark.parametrize(("context", "stride"), [(97, 1), (8, 9), (8, -1), (0, None)])
def test_windows_that_cannot_be(
    context: int, stride: int | None, tiny_llama: LanguageModel
) -> None:
    with pytest.raises(ValueError, match="need 0 < stride"):
        score_tokens(tiny_llama.model, text(20), LENGTHS, context=context, stride=stride)


NUMBERS = "no digits here\n  x = 17\nnone\n\nlast 3"


@pytest.mark.parametrize("mode", DIGITS_MODES)
def test_tokens_on_lines_with_digits_are_found(
    mode: Digits, tokenizers: Mapping[Digits, Tokenizer]
) -> None:
    """Special tokens are not among them; a token belongs to the line of its first byte."""
    tokenizer = tokenizers[mode]
    ids = [tokenizer.eos_id, *tokenizer.encode(NUMBERS), tokenizer.eos_id]
    found = on_lines_with_digits(np.array(ids), tokenizer)
    assert not found[0]
    assert not found[-1]
    position, expected = 0, [False]
    for id_ in ids[1:-1]:
        line_start = NUMBERS.rfind("\n", 0, position) + 1
        line = NUMBERS[line_start:].split("\n")[0]
        expected.append(any(character.isdigit() for character in line))
        position += len(tokenizer.token_bytes(id_))
    assert found.tolist() == [*expected, False]
    assert 0 < found.sum() < len(found)


def test_a_text_without_bytes_has_no_such_tokens(tokenizers: Mapping[Digits, Tokenizer]) -> None:
    tokenizer = tokenizers["one"]
    assert not on_lines_with_digits(np.array([tokenizer.eos_id]), tokenizer).any()
    assert len(on_lines_with_digits(np.zeros(0, dtype=np.int64), tokenizer)) == 0
