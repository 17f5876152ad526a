"""The words of a sample: those that the pattern cuts, bounded in length and in memory."""

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from puna.tokenizer.pretokenize import DIGITS_MODES, SPLIT_PATTERNS, Digits
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.word_counts import MAX_WORD_CHARACTERS, WordCounts


def counted(
    texts: list[str], digits: Digits = "one", max_distinct_bytes: int = 10**9
) -> WordCounts:
    words = WordCounts(digits, max_distinct_bytes)
    for text in texts:
        words.add(text)
    return words


@pytest.mark.parametrize("digits", DIGITS_MODES)
@given(text=st.text(alphabet=" \n\r\t'sStTae9٣½Éßж中文字、。_=+é\u0301\u00a0\u3000🦙", max_size=60))
def test_words_are_those_that_encoding_cuts(digits: Digits, text: str) -> None:
    cut = pre_tokenizers.Split(Regex(SPLIT_PATTERNS[digits]), behavior="isolated")
    pieces = Counter(piece for piece, _ in cut.pre_tokenize_str(text))
    assert counted([text], digits).counts == pieces


def test_a_long_word_counts_as_several_that_join_to_it() -> None:
    word = "".join(random.Random(0).choices("abcdef", k=3 * MAX_WORD_CHARACTERS + 5))
    parts = list(counted([word]).counts)
    assert "".join(parts) == word
    assert [len(part) for part in parts] == [MAX_WORD_CHARACTERS] * 3 + [5]


def test_thinning_keeps_frequent_words_exact_and_memory_bounded() -> None:
    rng = random.Random(1)
    rare = ["".join(rng.choices("abcdefgh", k=12)) for _ in range(20_000)]
    texts = [f"often {first} {second}" for first, second in zip(rare[::2], rare[1::2], strict=True)]
    words = counted(texts, max_distinct_bytes=50_000)
    assert words.counts["often"] == 10_000
    assert words.threshold > 1
    assert sum(len(word) for word in words.counts) <= 50_000
    assert words.counts == counted(texts, max_distinct_bytes=50_000).counts


def test_the_threshold_grows_with_the_text_and_not_faster() -> None:
    """40 times the room in words that occur once: it had doubled with every filling, to 2^40, and
    no pair was frequent enough to be merged.
    """
    rng = random.Random(4)
    texts = ["".join(rng.choices("abcdefgh", k=10)) + " " for _ in range(40_000)]
    words = counted(texts, max_distinct_bytes=10_000)
    assert 40 <= words.threshold <= 4 * 40 * 2
    assert sum(words.counts.values()) == pytest.approx(80_000, rel=0.5)


def test_thinned_counts_are_right_on_average() -> None:
    """10,000 words that occur once and 2,000 that occur three times: both totals stay within five
    standard deviations of a sum of words kept with probability n / t.
    """
    rng = random.Random(2)
    once = ["x" + "".join(rng.choices("abcdefgh", k=11)) for _ in range(10_000)]
    thrice = ["y" + "".join(rng.choices("abcdefgh", k=11)) for _ in range(2_000)]
    texts = rng.sample(once + thrice * 3, k=16_000)
    words = counted(texts, max_distinct_bytes=60_000)
    for first, words_of_kind, count in (("x", 10_000, 1), ("y", 2_000, 3)):
        total = sum(n for word, n in words.counts.items() if word[0] == first)
        # Each word's estimate is at most t in size, so its variance is at most n t
        deviation = (words_of_kind * count * words.threshold) ** 0.5
        assert abs(total - words_of_kind * count) < 5 * deviation
        assert deviation < words_of_kind * count / 10, "the test would see nothing"


@pytest.mark.parametrize("unit", ["a", "中", " ", "=", "\n"])
def test_a_text_without_cuts_trains_at_any_length(unit: str) -> None:
    """A megabyte without a cut took minutes while the trainer saw it as one word."""
    tokenizer = Tokenizer.train([unit * 1_000_000], 300)
    text = unit * 1000
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_lengths().max() > 8


def test_a_vocabulary_from_thinned_words_knows_the_frequent_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(3)
    texts = [
        "the llama " + "".join(rng.choices("bcdfgh", k=rng.randint(8, 14))) for _ in range(5_000)
    ]
    small = partial(WordCounts, max_distinct_bytes=20_000)
    monkeypatch.setattr("puna.tokenizer.word_counts.WordCounts", small)
    tokenizer = Tokenizer.train(texts, 300)
    assert len(tokenizer.encode("the llama")) == 2
