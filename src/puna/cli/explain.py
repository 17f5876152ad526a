"""Output of `puna tokenizer explain`: every merge with its count, its rivals and the
words that it changed.

Not here: the algorithm, which is `tokenizer/bpe.py`. Measured on one core with 50,000 characters of
Python source, the most that is taken: 10 s for 3,650 merges, until no pair is left.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from puna.cli.columns import padding
from puna.errors import TokenizerError
from puna.tokenizer.bpe import BpeLearner, count_words
from puna.tokenizer.pretokenize import encode_utf8

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MAX_CHARACTERS = 50_000
"""More than anyone reads merge by merge."""

_RIVALS = 3
_WORDS_SHOWN = 6
_SYMBOLS_SHOWN = 40
_PAIR_WIDTH = 28
_INDENT = " " * 14


def read_words(source: str, *, with_counts: bool = False) -> Counter[str]:
    """The words of a text, or those of a list such as "low:5 lower:2", with their counts."""
    if len(source) > MAX_CHARACTERS:
        raise TokenizerError(
            f"the text has {len(source):,} characters, and explain takes at most"
            f" {MAX_CHARACTERS:,}; cut it, for example with head -c, or learn from all of it with"
            " puna tokenizer train"
        )
    encode_utf8(source)
    if not with_counts:
        return count_words(source)
    words: Counter[str] = Counter()
    for item in source.split():
        word, _, count = item.rpartition(":")
        try:
            words[word] += int(count)
        except ValueError as error:
            raise TokenizerError(
                f"--words holds {item[:40]!r}; give words with their counts, as in 'low:5 lower:2'"
            ) from error
    return words


def print_merges(
    console: "Console", learner: BpeLearner, *, max_merges: int | None, vocab_size: int | None
) -> None:
    """Run the learner to its end and print each merge as it is made."""
    from rich.text import Text

    def say(*parts: "str | Text", style: str = "") -> None:
        line = Text.assemble(*parts, style=style)
        line.rstrip()
        console.print(line, soft_wrap=True)

    merges = learner.learn(max_merges=max_merges, vocab_size=vocab_size)
    starting = len(learner.symbols)
    say(f"words    {sum(learner.words.values()):,}, of which {len(learner.words):,} different")
    say(f"symbols  {starting:,}: {_spell(learner.symbols)}")
    say(_INDENT, _draw_words(learner, learner.cuts))
    say(f"\nmerge  count  {'pair → symbol':{_PAIR_WIDTH}}  next in line", style="bold")
    made, rivals = 0, _spell_rivals(learner)
    for made, merge in enumerate(merges, 1):
        joined = f"{_spell(merge.pair, ' + ')} → {_spell([merge.symbol])}"
        joined += padding(joined, _PAIR_WIDTH)
        say(f"{made:>5}  {merge.count:>5,}  {joined}  {rivals}")
        say(
            _INDENT,
            _draw_words(
                learner,
                [word for word, cut in learner.cuts.items() if merge.symbol in cut],
                merge.symbol,
            ),
        )
        rivals = _spell_rivals(learner)
    if not learner.counts:
        reason = "No pair is left."
    elif made == max_merges:
        reason = "Stopped by the number of merges."
    else:
        reason = "Stopped by the size of the vocabulary."
    say(
        f"\nsymbols  {len(learner.symbols):,}: {starting:,} to begin with, {made:,} merged."
        f" {reason}"
    )
    say(_INDENT, _draw_words(learner, learner.cuts))


def _spell_rivals(learner: BpeLearner) -> str:
    """The pairs behind the one that is merged next, with their counts."""
    return ", ".join(
        f"{_spell(pair, ' + ')} {learner.counts[pair]:,}"
        for pair in learner.most_frequent(1 + _RIVALS)[1:]
    )


def _draw_words(learner: BpeLearner, words: Collection[str], new: str | None = None) -> "Text":
    """The first of these words as they are cut now, with their counts; the new symbol in colour."""
    from rich.text import Text

    drawn = Text()
    for word in islice(words, _WORDS_SHOWN):
        cut = learner.cuts[word]
        for symbol in cut[:_SYMBOLS_SHOWN]:
            drawn.append(_spell([symbol]), style="bold green" if symbol == new else "").append(" ")
        drawn.append("… " if len(cut) > _SYMBOLS_SHOWN else "").append(
            f"({learner.words[word]:,})   ", style="dim"
        )
    if len(words) > _WORDS_SHOWN:
        drawn.append(f"and {len(words) - _WORDS_SHOWN:,} more", style="dim")
    drawn.rstrip()
    return drawn


def _spell(symbols: Iterable[str], between: str = " ") -> str:
    """Symbols side by side, with an escape for what a terminal would act on or not show."""
    return between.join(
        symbol if symbol.isprintable() else symbol.encode("unicode_escape").decode()
        for symbol in symbols
    )
