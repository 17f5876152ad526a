"""Byte pair encoding as it is taught: count words, cut them into characters, merge the most
frequent pair, again and again.

    words: low 5, lower 2, newest 6, widest 3        every word ends in its own </w>
    merge: e s (9 times), es t (9), est </w> (9), l o (7), lo w (7), n e (6), ...

What it is not: the trainer behind `puna tokenizer train`. That one is `training.py`, which counts
in Rust; this file is the same algorithm to read, to watch (`puna tokenizer explain`) and to hold
the fast one against: over byte characters, with `end="none"` and `ties="oldest"`, the two learn the
same merges in the same order.

Source: Sennrich, Haddow & Birch 2016, Neural Machine Translation of Rare Words with Subword Units
(arXiv 1508.07909), section 3.2 and algorithm 1; for compression, Gage 1994. Counts are Python
integers, so they are exact at any size.

Cost: a merge recounts only the words that hold the pair, and then looks once at every pair;
`ties="first"` walks all words as well. Measured on one core with 0.58 MB of Python source, which
has 8,950 different words: 1,000 merges take 1 s, with `ties="first"` 5 s.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, get_args

from puna.errors import TokenizerError

Pair = tuple[str, str]

End = Literal["separate", "attached", "none"]
"""Mark of a word's end: by a symbol of its own behind the last character (the paper), as part
of the last character's symbol (subword-nmt from 0.2 on), or not at all.
"""

Ties = Literal["first", "oldest"]
"""Choice among equally frequent pairs.

`first`: the one that is met first on a walk through the words, in the order they are given and from
left to right. That is the paper's code, which recounts into a dict and takes the first maximum.
`oldest`: the one whose left symbol is oldest, and of those the one whose right symbol is. The
starting symbols come in the order of their code points, the merged ones after them as they were
made. That is `tokenizers`' smaller pair of ids.
"""

END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Merge:
    """One learned rule: wherever the two symbols of `pair` stand side by side, they become one."""

    pair: Pair
    count: int
    """Count of the pair in the text when it was chosen. Overlaps count: "aaa" holds a a
    twice, and merges it once.
    """

    @property
    def symbol(self) -> str:
        """The new symbol."""
        return "".join(self.pair)


def count_words(text: str) -> Counter[str]:
    """The words between white space, in the order in which they first appear, with their counts."""
    return Counter(text.split())


def split_word(word: str, end: End = "separate") -> list[str]:
    """The symbols that a word starts from: its characters (code points), and the mark of its
    end.
    """
    if end == "none":
        return list(word)
    symbols = [*word, END_OF_WORD]
    return symbols if end == "separate" else [*symbols[:-2], "".join(symbols[-2:])]


def merge_pair(symbols: Iterable[str], pair: Pair) -> list[str]:
    """Join every occurrence of the pair, from left to right: a a in "a a a" gives "aa a"."""
    left, right = pair
    merged: list[str] = []
    for symbol in symbols:
        if symbol == right and merged and merged[-1] == left:
            # longer than `left`, so what was just joined never joins again
            merged[-1] = left + right
        else:
            merged.append(symbol)
    return merged


def segment(word: str, pairs: Iterable[Pair], end: End = "separate") -> list[str]:
    """Cut any word, also one that was never seen, by applying the learned pairs in the order in
    which they were learned.

    With the ten merges of the paper's example "lowest" becomes low est</w>. The usual mistake is to
    look for the longest symbols of the vocabulary instead, which cuts differently.
    """
    symbols = split_word(word, end)
    for pair in pairs:
        symbols = merge_pair(symbols, pair)
    return symbols


class BpeLearner:
    """The words of a text as they are cut now, and the loop that merges them.

        count of a pair = sum over words of (count of the word) * (positions in the word where
            the pair stands)

    A pair lies inside one word, so no merge crosses a word's end. Overlapping positions count each:
    "aaa" holds a a twice. That is how the paper's code, subword-nmt and `tokenizers` count, and
    only so is "aa" the most frequent pair of "aaabdaaabac", the usual example: 4 times against 2
    for "ab", where without overlaps both have 2. It says how often a pair is seen, not how many
    symbols its merge saves.

    Every merge makes a symbol that did not exist before, so the vocabulary always has as many
    symbols as at the start plus one for each merge. The reason: where a symbol stands, nothing was
    ever merged across its edges, so inside it merging went as at every other position where the
    same characters became one symbol.
    """

    def __init__(
        self, words: Mapping[str, int], *, end: End = "separate", ties: Ties = "first"
    ) -> None:
        """`words` holds each word's count. Its order matters where `ties` is `first`."""
        _check_choice("end", end, get_args(End))
        _check_choice("ties", ties, get_args(Ties))
        if not words:
            raise TokenizerError(
                "there are no words to learn from; give a text that holds at least one character"
                " that is no white space"
            )
        for word, count in words.items():
            if not word or count < 1:
                raise TokenizerError(
                    f"the word {word[:40]!r} has the count {count}; a word has a character at"
                    " least, and counts from 1 on"
                )
            if end != "none" and END_OF_WORD in word:
                raise TokenizerError(
                    f"the word {word[:40]!r} holds {END_OF_WORD}, which marks the end of a word;"
                    " remove it, or mark no ends (none)"
                )
        # A copy, in the given order, which is the order of the walk for `ties="first"`
        self.words = dict(words)
        self.ties = ties
        self.cuts = {word: split_word(word, end) for word in words}
        """Each word's symbols as merged so far."""
        self.counts: Counter[Pair] = Counter()
        """Count of each pair in the text as it is cut now; a pair that stands nowhere has
        no entry.
        """
        # also words that held the pair once
        self._words_with: defaultdict[Pair, set[str]] = defaultdict(set)
        for word, count in words.items():
            self._count_pairs(word, count)
        self.symbols = sorted({symbol for symbols in self.cuts.values() for symbol in symbols})
        """The vocabulary, oldest first: the starting symbols by code points, then the merged ones
        in the order they were made.
        """

    def learn(
        self, *, max_merges: int | None = None, vocab_size: int | None = None
    ) -> Iterator[Merge]:
        """Merge until `max_merges` merges are made, the vocabulary has `vocab_size` symbols, or no
        word holds a pair: whichever comes first. Each merge is made when the iterator is asked for
        it, so `cuts` and `counts` can be looked at in between.
        """
        if max_merges is not None and max_merges < 0:
            raise TokenizerError(
                f"the number of merges is {max_merges}; it must be 0 or more, or left out to merge"
                " until no pair is left"
            )
        if vocab_size is not None and vocab_size < len(self.symbols):
            raise TokenizerError(
                f"vocab_size is {vocab_size}; it must be at least {len(self.symbols)}, the"
                " different symbols that the words are made of now"
            )
        remaining = None if vocab_size is None else vocab_size - len(self.symbols)
        return islice(
            self._merges(),
            min((limit for limit in (max_merges, remaining) if limit is not None), default=None),
        )

    def most_frequent(self, number: int) -> list[Pair]:
        """The pairs that are first in line, at most `number`, the next to be merged in front."""
        # The smallest count that can be among the first `number`: no pair below it is sorted
        least = min(heapq.nlargest(number, self.counts.values()), default=0)
        candidates = {pair for pair, count in self.counts.items() if count >= least}
        if self.ties == "first":
            # a dict keeps the first occurrence of each pair, and their order
            by_rule = list(
                dict.fromkeys(
                    pair
                    for symbols in self.cuts.values()
                    for pair in pairwise(symbols)
                    if pair in candidates
                )
            )
        else:
            age = {symbol: index for index, symbol in enumerate(self.symbols)}
            by_rule = sorted(candidates, key=lambda pair: (age[pair[0]], age[pair[1]]))
        # a stable sort: equal counts stay as the rule has them
        return sorted(by_rule, key=lambda pair: -self.counts[pair])[:number]

    def _merges(self) -> Iterator[Merge]:
        while self.counts:
            (pair,) = self.most_frequent(1)
            merge = Merge(pair, self.counts[pair])
            # Off with the counts of the old cut, on with those of the new: words without the pair
            # are not touched
            for word in self._words_with.pop(pair):
                self._count_pairs(word, -self.words[word])
                self.cuts[word] = merge_pair(self.cuts[word], pair)
                self._count_pairs(word, self.words[word])
            self.symbols.append(merge.symbol)
            yield merge

    def _count_pairs(self, word: str, times: int) -> None:
        """Add `times` to the count of every pair that stands in the word."""
        for pair in pairwise(self.cuts[word]):
            self.counts[pair] += times
            self._words_with[pair].add(word)
            if not self.counts[pair]:  # with entries of 0 left, `_merges` would never end
                del self.counts[pair]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TokenizerError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
