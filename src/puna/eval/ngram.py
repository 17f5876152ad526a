"""Counting baselines: bits per byte of interpolated n-gram models, to set beside a model's.

A unigram model knows how frequent each token is, and nothing of the context; a model that is no
better has learnt nothing else. The counts come from the training ids alone, unlike those of the
compressors in compression.py, which adapt to the text as they go. Costs a sort of the training ids
for each order: 6 million of them with 300 thousand ids of text, V = 2048 and the orders 1 to 5 take
about 4 s (8 s where the text has nearly all their contexts) and 0.3 GB beside the ids, on one core
of an AMD EPYC.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from puna.errors import DataError

_REPORTED = {1: "unigram", 2: "bigram"}


def ngram_bits_per_byte(
    train: NDArray[np.int64],
    text: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    order: int,
) -> float:
    """Bits per UTF-8 byte of a text under the n-gram model of that order, with interpolation after
    Witten and Bell.

        p_n(w | h) = (c(hw) + T(h) p_(n-1)(w | h')) / (c(h) + T(h)),  p_0(w) = 1 / V

    h: the n - 1 ids before w; h': h without its oldest id; c: occurrences in `train`, c(h) only
    those with an id after them; T(h): distinct ids after h. After an h that `train` lacks,
    p_n = p_(n-1); near the start of the text, h is as long as there are ids.

    train [M], text [N]: documents one after another, begin tokens included; contexts reach across
    documents. token_lengths [V]: UTF-8 bytes of each token, 0 for special ones. As in
    bits_per_byte.py, the first id is no target, and special tokens are predicted from but count
    neither as loss nor as bytes. Arithmetic is float64. Raises DataError for an order below 1, an
    empty `train`, a text without targets, and ids outside the vocabulary.

    Source: Witten and Bell 1991, method C; Chen and Goodman 1999, section 2.4. Usual mistake: c(h)
    as the count of h itself, which is one too many where h ends the training ids, so that the
    probabilities do not sum to 1.
    """
    if order < 1:
        raise DataError(
            f"order {order} is no n-gram model: orders start at 1, the unigram; ask for 1 or more"
        )
    *_, last = _bits_by_order(train, text, token_lengths, order)
    return last


def counting_baselines(
    train: NDArray[np.int64], text: NDArray[np.int64], token_lengths: NDArray[np.int32]
) -> dict[str, float]:
    """Bits per byte of the unigram and the bigram model, by these names, in one pass over the
    orders; the 5-gram model is one of those in primed_baselines.py. Inputs and errors are those
    of `ngram_bits_per_byte`.
    """
    bits = _bits_by_order(train, text, token_lengths, max(_REPORTED))
    return {_REPORTED[n]: value for n, value in enumerate(bits, 1) if n in _REPORTED}


def _bits_by_order(
    train: NDArray[np.int64],
    text: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    highest: int,
) -> Iterator[float]:
    """Bits per byte at the orders 1, 2, ... up to the highest."""
    vocab = len(token_lengths)
    _check(train, text, vocab)
    counted = token_lengths[text] > 0
    counted[0] = False
    text_bytes = int(token_lengths[text[counted]].sum())
    if not text_bytes:
        raise DataError(
            f"of the {len(text) - 1} targets none is text (special tokens are not), so there are no"
            " bytes to score; give a text that has some"
        )
    probability = np.full(len(text), 1 / vocab)
    # Contexts are numbered among those of the text: c(h) and T(h) of others are never asked for, so
    # their places in the training ids drop out. At order 1 the empty context, 0, is everywhere.
    place, context = np.arange(len(train)), np.zeros_like(train)
    text_context = np.zeros_like(text)
    for n in range(1, highest + 1):
        keys = context * vocab + train[place]
        text_grams, text_rank = np.unique(text_context * vocab + text[n - 1 :], return_inverse=True)
        grams, occurrences = np.unique(keys, return_counts=True)
        count = np.zeros(len(text_grams), dtype=np.int64)
        known, rank = _ranks(grams, text_grams)
        count[known] = occurrences[rank]
        total = np.bincount(context, minlength=len(text))[text_context]
        distinct = np.bincount(grams // vocab, minlength=len(text))[text_context]
        lower = probability[n - 1 :]
        np.divide(count[text_rank] + distinct * lower, total + distinct, out=lower, where=total > 0)
        yield float(-np.log2(probability[counted]).sum() / text_bytes)
        # the n-gram that ends at an id is the context of the next id at order n + 1
        known, context = _ranks(text_grams, keys)
        place = place[known] + 1
        if len(place) and place[-1] == len(train):  # after the last id comes none
            place, context = place[:-1], context[:-1]
        text_context = text_rank[:-1]


def _ranks(
    ordered: NDArray[np.int64], values: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """A mask over the values that are in `ordered` (distinct, ascending, none negative), and the
    ranks there of these values only.
    """
    rank = np.searchsorted(ordered, values)
    known = np.append(ordered, -1)[rank] == values
    return known, rank[known]


def _check(train: NDArray[np.int64], text: NDArray[np.int64], vocab: int) -> None:
    """Raise DataError for ids that give no counts, no target or no token."""
    if not len(train):
        raise DataError("there are 0 training ids, but counts take 1 or more; give some")
    if len(text) < 2:
        raise DataError(
            f"the text has {len(text)} tokens, but predicting one from another takes two; give a"
            " longer one"
        )
    for name, ids in (("training ids", train), ("text", text)):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= vocab:
            raise DataError(
                f"the {name} hold id {low if low < 0 else high}, but ids of this vocabulary lie in"
                f" 0 to {vocab - 1}; encode both texts with the tokenizer of token_lengths"
            )
