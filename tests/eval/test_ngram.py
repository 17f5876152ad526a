"""N-gram models against arithmetic by hand, against dictionaries of counts filled in a plain loop,
and on texts whose cost is known.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from said import said

from puna.errors import DataError
from puna.eval.ngram import counting_baselines, ngram_bits_per_byte

VOCAB = 4
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40)


def ids(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def lengths(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


ONE_BYTE = lengths(*[1] * VOCAB)


class PlainCounts:
    """Followers of every context of every length in dictionaries."""

    def __init__(self, train: Sequence[int], order: int, vocab: int) -> None:
        self.vocab = vocab
        self.followers: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for length in range(order):
            for end in range(length, len(train)):
                self.followers[tuple(train[end - length : end])][train[end]] += 1

    def probability(self, context: tuple[int, ...], token: int) -> float:
        lower = self.probability(context[1:], token) if context else 1 / self.vocab
        after = self.followers.get(context)
        if after is None:
            return lower
        return (after[token] + len(after) * lower) / (sum(after.values()) + len(after))


def plain_bits_per_byte(
    train: Sequence[int], text: Sequence[int], token_lengths: Sequence[int], order: int
) -> float:
    model = PlainCounts(train, order, len(token_lengths))
    bits, size = 0.0, 0
    for at in range(1, len(text)):
        if token_lengths[text[at]]:
            context = tuple(text[max(0, at - order + 1) : at])
            bits -= math.log2(model.probability(context, text[at]))
            size += token_lengths[text[at]]
    return bits / size


def test_a_bigram_model_by_hand() -> None:
    # train 0 1 0 1 0, V = 3. Unigram: 5 ids, T = 2 distinct, below it 1/3 each:
    #   p(0) = (3 + 2/3) / 7 = 11/21, p(1) = (2 + 2/3) / 7 = 8/21, p(2) = (0 + 2/3) / 7 = 2/21
    # After 0 comes 1 twice (the last 0 has no id after it), after 1 comes 0 twice, so T = 1:
    #   p(1 | 0) = (2 + 8/21) / 3 = 50/63, p(2 | 1) = (0 + 2/21) / 3 = 2/63
    # After 2 comes nothing: p(0 | 2) = p(0) = 11/21
    # text 0 1 2 0: the first 0 is no target, the others have 1 + 3 + 2 bytes
    train, text, sizes = ids([0, 1, 0, 1, 0]), ids([0, 1, 2, 0]), lengths(2, 1, 3)
    unigram = -(math.log2(8 / 21) + math.log2(2 / 21) + math.log2(11 / 21)) / 6
    bigram = -(math.log2(50 / 63) + math.log2(2 / 63) + math.log2(11 / 21)) / 6
    assert ngram_bits_per_byte(train, text, sizes, 1) == pytest.approx(unigram, rel=1e-14)
    assert ngram_bits_per_byte(train, text, sizes, 2) == pytest.approx(bigram, rel=1e-14)


@given(
    train=IDS,
    text=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=40),
    sizes=st.lists(st.integers(0, 3), min_size=VOCAB, max_size=VOCAB),
    order=st.integers(1, 4),
)
def test_dictionaries_of_counts_agree(
    train: list[int], text: list[int], sizes: list[int], order: int
) -> None:
    if not any(sizes[token] for token in text[1:]):
        sizes[text[1]] = 1
    assert ngram_bits_per_byte(ids(train), ids(text), lengths(*sizes), order) == pytest.approx(
        plain_bits_per_byte(train, text, sizes, order), rel=1e-12
    )


def test_dictionaries_of_counts_agree_on_a_longer_text() -> None:
    # skewed ids, so that contexts of every length occur both in the training ids and not
    draws = np.random.default_rng(0).geometric(0.3, 6000) % 40
    train, text = draws[:5000], draws[5000:]
    sizes = [token % 5 for token in range(40)]
    for order in range(1, 6):
        assert ngram_bits_per_byte(train, text, lengths(*sizes), order) == pytest.approx(
            plain_bits_per_byte(train.tolist(), text.tolist(), sizes, order), rel=1e-12
        )


@given(
    train=IDS,
    context=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
    order=st.integers(1, 4),
)
def test_the_probabilities_after_any_context_sum_to_one(
    train: list[int], context: list[int], order: int
) -> None:
    def bits(text: list[int]) -> float:
        if len(text) < 2:
            return 0.0
        return ngram_bits_per_byte(ids(train), ids(text), ONE_BYTE, order) * (len(text) - 1)

    before = bits(context)
    total = sum(2 ** (before - bits([*context, token])) for token in range(VOCAB))
    assert total == pytest.approx(1, rel=1e-12)


def test_a_text_that_repeats_the_training_text_is_far_below_the_unigram() -> None:
    train = np.random.default_rng(1).integers(0, 50, 3000)
    unigram, five = (
        ngram_bits_per_byte(train, train[1000:2000], lengths(*[1] * 50), order) for order in (1, 5)
    )
    assert unigram == pytest.approx(math.log2(50), rel=0.02)  # ids are independent
    assert five < unigram / 4


def test_independent_ids_cost_their_entropy_at_every_order() -> None:
    # 3/4, 1/4: 0.811 bits; with 40000 ids the counts of 2^5 contexts are nearly exact
    draws = (np.random.default_rng(2).random(50_000) < 0.25).astype(np.int64)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    for order in (1, 2, 5):
        bits = ngram_bits_per_byte(draws[:40_000], draws[40_000:], lengths(1, 1), order)
        assert bits == pytest.approx(entropy, rel=0.02)


def test_the_baselines_are_the_orders_1_and_2() -> None:
    train, text = np.split(np.random.default_rng(3).geometric(0.5, 400) % VOCAB, [300])
    assert counting_baselines(train, text, ONE_BYTE) == {
        "unigram": ngram_bits_per_byte(train, text, ONE_BYTE, 1),
        "bigram": ngram_bits_per_byte(train, text, ONE_BYTE, 2),
    }


def test_special_tokens_are_contexts_but_do_not_count() -> None:
    # 0 is special, and 1 always follows it: 4 times in training, so p(1 | 0) = (4 + p(1)) / 5
    train, sizes = ids([0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 1, 3]), lengths(0, 1, 1, 1)
    unigram = (4 + 4 / 4) / (12 + 4)
    bits = -math.log2((4 + unigram) / 5)
    # the zeros between are targets of neither loss nor bytes; the ones after them are
    assert ngram_bits_per_byte(train, ids([0, 1, 0, 1, 0]), sizes, 2) == pytest.approx(bits)
    assert ngram_bits_per_byte(train, ids([0, 1]), sizes, 2) == pytest.approx(bits)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_an_unseen_token_costs_a_finite_number_of_bits(order: int) -> None:
    # no context of the text is followed by 3, and after 3 there is no context: down to the unigram,
    # (0 + 1 / 4) / (6 + 1), at order 1 for both targets
    cost = ngram_bits_per_byte(ids([0] * 6), ids([3, 3, 3]), ONE_BYTE, order)
    assert cost == pytest.approx(math.log2(28), rel=1e-14)


def test_the_arguments_stay_as_they_are() -> None:
    train, text = ids([0, 1, 2, 0, 1]), ids([0, 1, 3])
    counting_baselines(train, text, ONE_BYTE)
    assert train.tolist() == [0, 1, 2, 0, 1]
    assert text.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("train", "text", "order", "message"),
    [
        ([0, 1], [0, 1], 0, "order 0 ... start at 1 ... ask for 1"),
        ([0, 1], [0, 1], -2, "order -2 ... start at 1 ... ask for 1"),
        ([], [0, 1], 2, "0 training ids ... 1 or more ... give some"),
        ([0, 1], [1], 2, "1 tokens ... takes two ... longer"),
        ([0, 1], [1, 4], 2, "text ... id 4 ... 0 to 3 ... tokenizer"),
        ([0, -1], [0, 1], 2, "training ids ... id -1 ... 0 to 3 ... tokenizer"),
    ],
)
def test_what_cannot_be_scored_says_why(
    train: list[int], text: list[int], order: int, message: str
) -> None:
    with pytest.raises(DataError, match=said(message)):
        ngram_bits_per_byte(ids(train), ids(text), ONE_BYTE, order)


def test_a_text_of_special_tokens_has_no_bytes() -> None:
    # the first id is text, but no target
    with pytest.raises(DataError, match=said("2 targets ... special ... no bytes ... give")):
        ngram_bits_per_byte(ids([0, 1]), ids([1, 0, 0]), lengths(0, 1), 2)
