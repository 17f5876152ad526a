"""BPE as taught: the published merges, the rules that a merge obeys, and the shipped trainer held
against it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise, takewhile
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.bpe import (
    BpeLearner,
    End,
    Merge,
    Pair,
    Ties,
    count_words,
    merge_pair,
    segment,
    split_word,
)
from puna.tokenizer.pretokenize import build_pre_tokenizer
from puna.tokenizer.special import LLAMA3_SPECIAL_TOKENS
from puna.tokenizer.tokenizer import Tokenizer

TOY = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
SEPARATE = [
    *[
        ("es", 9),
        ("est", 9),
        ("est</w>", 9),
        ("lo", 7),
        ("low", 7),
        ("ne", 6),
        ("new", 6),
        ("newest</w>", 6),
        ("low</w>", 5),
        ("wi", 3),
    ],
    *[("wid", 3), ("widest</w>", 3), ("lowe", 2), ("lower", 2), ("lower</w>", 2)],
]
ATTACHED = [
    *[
        ("es", 9),
        ("est</w>", 9),
        ("lo", 7),
        ("ne", 6),
        ("new", 6),
        ("newest</w>", 6),
        ("low</w>", 5),
        ("wi", 3),
        ("wid", 3),
    ],
    *[("widest</w>", 3), ("low", 2), ("lowe", 2), ("lower</w>", 2)],
]

ENDS = st.sampled_from(get_args(End))
TIES = st.sampled_from(get_args(Ties))
FEW_LETTERS = st.dictionaries(
    st.text("ab", min_size=1, max_size=12), st.integers(1, 4), min_size=1, max_size=8
)
"""Two letters, so that overlaps and ties are everywhere."""


def learn(
    words: Mapping[str, int],
    end: End = "separate",
    ties: Ties = "first",
    max_merges: int | None = None,
) -> list[Merge]:
    return list(BpeLearner(words, end=end, ties=ties).learn(max_merges=max_merges))


def counts_by_symbol(merges: Iterable[Merge]) -> list[tuple[str, int]]:
    return [(merge.symbol, merge.count) for merge in merges]


def learn_by_recounting(words: Mapping[str, int], end: End, ties: Ties) -> list[Merge]:
    """The paper's algorithm 1 with nothing saved: count all pairs anew for each merge, in one dict,
    and take its maximum.
    """
    cuts = {word: split_word(word, end) for word in words}
    age = {
        symbol: index
        for index, symbol in enumerate(sorted({symbol for cut in cuts.values() for symbol in cut}))
    }
    merges = []
    while True:
        counts: dict[Pair, int] = {}
        for word, cut in cuts.items():
            for pair in pairwise(cut):
                counts[pair] = counts.get(pair, 0) + words[word]
        if not counts:
            return merges
        if ties == "first":
            best = max(counts, key=lambda pair: counts[pair])
        else:
            best = max(counts, key=lambda pair: (counts[pair], -age[pair[0]], -age[pair[1]]))
        merges.append(Merge(best, counts[best]))
        age["".join(best)] = len(age)
        for word, cut in cuts.items():
            new, index = [], 0
            while index < len(cut):
                wide = 2 if tuple(cut[index : index + 2]) == best else 1
                new.append("".join(cut[index : index + wide]))
                index += wide
            cuts[word] = new


def shipped_merges(texts: Iterable[str], number: int) -> list[Pair]:
    """The first merges that `Tokenizer.train` learns; it makes none of a pair that occurs once."""
    tokenizer = Tokenizer.train(texts, 256 + len(LLAMA3_SPECIAL_TOKENS) + number)
    return [(left, right) for left, right in json.loads(tokenizer.to_json())["model"]["merges"]]


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """The shipped tokenizer's words: what its pattern cuts, every byte spelled as one character."""
    cut = build_pre_tokenizer("one")
    return Counter(piece for text in texts for piece, _ in cut.pre_tokenize_str(text))


@pytest.mark.parametrize(("end", "published"), [("separate", SEPARATE), ("attached", ATTACHED)])
def test_the_toy_corpus_gives_the_published_merges_and_is_then_exhausted(
    end: End, published: list[tuple[str, int]]
) -> None:
    learner = BpeLearner(TOY, end=end)
    assert counts_by_symbol(learner.learn()) == published
    assert not learner.counts
    assert learner.cuts == {word: [f"{word}</w>"] for word in TOY}


def test_the_encyclopedia_example_merges_aa_then_ab_then_both() -> None:
    """aaabdaaabac: Z = aa gives ZabdZabac, Y = ab gives ZYdZYac, X = ZY gives XdXac; then no pair
    occurs twice.
    """
    learner = BpeLearner({"aaabdaaabac": 1}, end="none", ties="oldest")
    seen = []
    for merge in takewhile(lambda merge: merge.count > 1, learner.learn()):
        letters = {"aa": "Z", "ab": "Y", "aaab": "X"}
        seen.append(
            (
                merge.pair,
                "".join(letters.get(symbol, symbol) for symbol in learner.cuts["aaabdaaabac"]),
            )
        )
    assert seen == [(("a", "a"), "ZabdZabac"), (("a", "b"), "ZYdZYac"), (("aa", "ab"), "XdXac")]


def test_overlapping_pairs_are_counted_and_merged_from_the_left() -> None:
    """Without overlaps aa and ab would tie in aaabdaaabac, twice each; the example says that aa is
    the most frequent.
    """
    assert BpeLearner({"aaa": 1}, end="none").counts == {("a", "a"): 2}
    assert learn({"aaabdaaabac": 1}, end="none")[0] == Merge(("a", "a"), 4)
    assert merge_pair("aaa", ("a", "a")) == ["aa", "a"]
    assert merge_pair("aaaa", ("a", "a")) == ["aa", "aa"]
    assert merge_pair("abab", ("b", "a")) == ["a", "ba", "b"]


def test_ties_go_to_the_pair_met_first_or_to_the_oldest_symbols() -> None:
    words = {"zy": 1, "ab": 1}
    assert [merge.symbol for merge in learn(words, "none", "first")] == ["zy", "ab"]
    assert [merge.symbol for merge in learn(words, "none", "oldest")] == ["ab", "zy"]
    assert [merge.symbol for merge in learn(dict(reversed(words.items())), "none", "first")] == [
        "ab",
        "zy",
    ]


def test_the_first_in_line_come_in_the_order_in_which_they_would_be_merged() -> None:
    learner = BpeLearner(TOY)
    assert learner.most_frequent(5) == [
        ("e", "s"),
        ("s", "t"),
        ("t", "</w>"),
        ("w", "e"),
        ("l", "o"),
    ]
    assert len(learner.most_frequent(100)) == len(learner.counts)
    list(learner.learn())
    assert learner.most_frequent(5) == []


def test_words_are_split_into_characters_with_the_end_in_its_own_or_the_last_symbol() -> None:
    assert split_word("né", "separate") == ["n", "é", "</w>"]
    assert split_word("né", "attached") == ["n", "é</w>"]
    assert split_word("né", "none") == ["n", "é"]
    assert split_word("a", "attached") == ["a</w>"]


def test_words_are_counted_between_white_space_in_the_order_of_their_first_position() -> None:
    assert list(count_words(" b\ta b\n\nb a\u3000c ").items()) == [("b", 3), ("a", 2), ("c", 1)]


def test_merging_stops_at_the_number_of_merges_or_the_vocabulary_size_whichever_comes_first() -> (
    None
):
    def made(**limits: int) -> int:
        return len(list(BpeLearner(TOY).learn(**limits)))

    assert made(max_merges=10) == 10
    assert made(vocab_size=21) == 10  # 11 symbols to begin with
    assert made(max_merges=4, vocab_size=21) == 4
    assert made(max_merges=12, vocab_size=21) == 10
    assert made(max_merges=100, vocab_size=100) == 15
    assert made(max_merges=0) == made(vocab_size=11) == 0


def test_merges_are_made_one_by_one_as_they_are_asked_for_and_go_on_where_they_stopped() -> None:
    learner = BpeLearner(TOY)
    merges = learner.learn(max_merges=2)
    assert learner.cuts["newest"] == [*"newest", "</w>"]
    next(merges)
    assert learner.cuts["newest"] == ["n", "e", "w", "es", "t", "</w>"]
    assert learner.counts["es", "t"] == 9
    assert ("e", "s") not in learner.counts
    next(merges)
    assert next(merges, None) is None
    assert counts_by_symbol(learner.learn()) == SEPARATE[2:]


def test_a_new_word_is_cut_by_the_merges_in_the_order_in_which_they_were_learned() -> None:
    pairs = [merge.pair for merge in learn(TOY, max_merges=10)]
    assert segment("lowest", pairs) == ["low", "est</w>"]
    assert segment("xes", pairs) == ["x", "es", "</w>"]
    assert segment("abcd", [("b", "c"), ("a", "b"), ("c", "d")], "none") == ["a", "bc", "d"]
    assert segment("abcd", [("a", "b"), ("b", "c"), ("c", "d")], "none") == ["ab", "cd"]


def test_counts_past_64_bits_are_exact() -> None:
    merges = learn({"ab": 2**64, "cd": 2**64 + 1}, end="none")
    assert counts_by_symbol(merges) == [("cd", 2**64 + 1), ("ab", 2**64)]


@given(FEW_LETTERS, ENDS, TIES)
def test_the_learner_equals_the_algorithm_that_recounts_everything(
    words: dict[str, int], end: End, ties: Ties
) -> None:
    assert learn(words, end, ties) == learn_by_recounting(words, end, ties)


@given(
    st.dictionaries(
        st.text("ab</>w", min_size=1, max_size=12).filter(lambda word: "</w>" not in word),
        st.integers(1, 4),
    ),
    ENDS,
    TIES,
)
def test_every_merge_makes_one_new_symbol_and_none_is_made_twice(
    words: dict[str, int], end: End, ties: Ties
) -> None:
    """So the vocabulary's size is that of the start plus the number of merges, also where text
    looks like the mark of an end.
    """
    if not words:
        return
    learner = BpeLearner(words, end=end, ties=ties)
    start = list(learner.symbols)
    symbols = [merge.symbol for merge in learner.learn()]
    assert learner.symbols == start + symbols
    assert len(set(learner.symbols)) == len(learner.symbols)


@given(FEW_LETTERS, ENDS, TIES, st.integers(0, 10))
def test_the_learner_cuts_its_own_words_as_segment_does(
    words: dict[str, int], end: End, ties: Ties, number: int
) -> None:
    learner = BpeLearner(words, end=end, ties=ties)
    pairs = [merge.pair for merge in learner.learn(max_merges=number)]
    assert learner.cuts == {word: segment(word, pairs, end) for word in words}
    spelled = "" if end == "none" else "</w>"
    assert all("".join(cut) == word + spelled for word, cut in learner.cuts.items())


@given(FEW_LETTERS, TIES)
def test_no_merge_crosses_the_end_of_a_word(words: dict[str, int], ties: Ties) -> None:
    for end in ("separate", "attached"):
        assert all(
            "</w>" not in merge.symbol.removesuffix("</w>") for merge in learn(words, end, ties)
        )
    joined = {merge.symbol for merge in learn(words, "none", ties)}
    assert all(any(symbol in word for word in words) for symbol in joined)


def test_a_pair_of_the_last_and_the_next_first_letter_is_never_counted() -> None:
    assert BpeLearner(count_words("ab ab ab"), end="none").counts == {("a", "b"): 3}


def test_byte_level_merges_equal_the_shipped_trainer_ties_included(stdlib_texts: list[str]) -> None:
    """500 merges over 0.6 MB of code and prose in several scripts, hundreds of them chosen from a
    tie.
    """
    shipped = shipped_merges(stdlib_texts, 500)
    merges = learn(count_pieces(stdlib_texts), "none", "oldest", max_merges=500)
    assert [merge.pair for merge in merges] == shipped
    assert sum(earlier.count == later.count for earlier, later in pairwise(merges)) > 100


@settings(max_examples=60)
@given(st.lists(st.text("ab é🦙\n1", min_size=1, max_size=30), min_size=1, max_size=4))
def test_byte_level_merges_equal_the_shipped_trainer_on_any_text(texts: list[str]) -> None:
    merges = takewhile(lambda merge: merge.count >= 2, learn(count_pieces(texts), "none", "oldest"))
    assert [merge.pair for merge in merges] == shipped_merges(texts, 1000)


def test_byte_level_merges_equal_the_shipped_trainer_with_either_rule_where_nothing_ties() -> None:
    """Beginnings of one word and ends of another, so that at each step one pair is seen more often
    than any other.
    """
    beginnings = {"reading"[:size]: 3 for size in range(2, 8)}
    ends = {"swimpool"[-size:]: 20 for size in range(2, 7)}
    texts = [word for word, count in (beginnings | ends).items() for _ in range(count)]
    learner, pairs = BpeLearner(count_pieces(texts), end="none", ties="first"), []
    while learner.counts:
        best, *second = (learner.counts[pair] for pair in learner.most_frequent(2))
        assert [best] > second
        pairs += [merge.pair for merge in learner.learn(max_merges=1)]
    assert ("re", "a") in pairs
    assert ("o", "ol") in pairs
    assert pairs == shipped_merges(texts, 1000)


def test_until_the_first_tie_both_tie_rules_agree(stdlib_texts: list[str]) -> None:
    words = count_pieces(stdlib_texts[:1])
    learner, same = BpeLearner(words, end="none"), 0
    for merge, shipped in zip(
        learner.learn(max_merges=200), shipped_merges(stdlib_texts[:1], 200), strict=True
    ):
        if merge.pair != shipped:
            break
        same += 1
    tied = learn(words, "none", "oldest", max_merges=same + 1)[-1]
    assert same > 10
    assert tied.pair != merge.pair
    assert tied.count == merge.count


@pytest.mark.parametrize("end", get_args(End))
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_text_without_words_is_rejected(text: str, end: End) -> None:
    with pytest.raises(TokenizerError, match="no words"):
        BpeLearner(count_words(text), end=end)


def test_a_word_that_holds_the_mark_of_an_end_is_rejected_where_ends_are_marked() -> None:
    for end in ("separate", "attached"):
        with pytest.raises(TokenizerError, match=said("'a</w>b' ... </w>")):
            BpeLearner({"a</w>b": 1}, end=end)
    assert learn({"</w>": 1}, end="none")[-1].symbol == "</w>"


@pytest.mark.parametrize("words", [{"": 1}, {"a": 0}, {"a": -2}])
def test_empty_words_and_counts_below_one_are_rejected(words: dict[str, int]) -> None:
    with pytest.raises(TokenizerError, match="count"):
        BpeLearner(words)


def test_limits_that_cannot_be_met_are_rejected_at_once() -> None:
    learner = BpeLearner(TOY)
    with pytest.raises(TokenizerError, match=said("merges ... -1")):
        learner.learn(max_merges=-1)
    with pytest.raises(TokenizerError, match=said("vocab_size ... 10 ... at least 11")):
        learner.learn(vocab_size=10)


def test_unknown_modes_are_rejected() -> None:
    with pytest.raises(TokenizerError, match=said("end ... 'both' ... separate, attached, none")):
        BpeLearner(TOY, end="both")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match=said("ties ... 'last' ... first, oldest")):
        BpeLearner(TOY, ties="last")  # type: ignore[arg-type]
