"""The source `recall`: lines of filler words with one planted pair of key and value, and at a
distance the key again, as a question for the value; and the questions that are kept out of it.

    vatin qzu= kex losura qzu? kex

The distance, in bytes from the end of the value to the second key, is one of `DISTANCES`, each as
often as the others. One key in `HELD_OUT` is in no document: a model that answers for it copies
from the line and remembers nothing. Filler words come from a list of 32, and one stands before the
pair: what nothing in the line predicts is most of the loss, and says nothing about recall.

Source: the task with one pair of Arora et al. 2023, Zoology, section 4 (associative recall), in
text; Olsson et al. 2022, In-context Learning and Induction Heads, for the mechanism that it asks
for. There a line holds several pairs; here the distance is what changes.
"""

import random
import string
from collections.abc import Iterator
from functools import cache

RECALL = "recall"
DISTANCES = (8, 32, 128, 480)
HELD_OUT = 10
DOCUMENTS = 110_000  # 20 MB, about 5 million tokens
QUESTIONS = 500
"""By distance, to ask a model."""


def documents() -> Iterator[str]:
    """The texts of the source, the same each time."""
    generator = random.Random(RECALL)
    told, _ = _keys()
    for _ in range(DOCUMENTS):
        question, answer = _line(generator, generator.choice(told), generator.choice(DISTANCES))
        yield question + answer


def questions(distance: int) -> list[tuple[str, str]]:
    """The lines with held-out keys, up to their question mark, and how each goes on: a space, the
    value and the line's end.
    """
    generator = random.Random(f"{RECALL} {distance}")
    _, held_out = _keys()
    return [_line(generator, generator.choice(held_out), distance) for _ in range(QUESTIONS)]


def _line(generator: random.Random, key: str, distance: int) -> tuple[str, str]:
    before = " ".join(_words(generator, generator.randint(5, 8)))
    between = " ".join(_words(generator, distance - 1))
    # the value's space makes its tokens the same behind = and ?
    value = " " + "".join(generator.choices(string.ascii_lowercase, k=3))
    return f"{before} {key}={value} {between} {key}?", f"{value}\n"


@cache
def _keys() -> tuple[list[str], list[str]]:
    """The keys of the documents, and those held out: three letters, shorter than a filler word."""
    letters = string.ascii_lowercase
    keys = [a + b + c for a in letters for b in letters for c in letters]
    random.Random(f"{RECALL} keys").shuffle(keys)
    held_out = len(keys) // HELD_OUT
    return keys[held_out:], keys[:held_out]


@cache
def _fillers() -> dict[int, list[str]]:
    """Eight words each of 4 to 7 letters, consonants and vowels by turns, by their length and the
    space behind them.
    """
    generator = random.Random(f"{RECALL} words")
    found: dict[int, list[str]] = {}
    for length in range(4, 8):
        words: dict[str, None] = {}
        while len(words) < 8:
            turns = [
                generator.choice("aeiou" if i % 2 else "bdfgklmnprstvz") for i in range(length)
            ]
            words["".join(turns)] = None
        found[length + 1] = list(words)
    return found


def _words(generator: random.Random, size: int) -> list[str]:
    """Filler words that, each with a space behind it, make up `size` bytes: 5 to 8, or 10 and
    more.
    """
    words: list[str] = []
    fillers = _fillers()
    while size:
        # no words make up 1 to 4 bytes, or 9
        fit = [n for n in fillers if n <= size and size - n not in (1, 2, 3, 4, 9)]
        length = generator.choice(fit)
        words.append(generator.choice(fillers[length]))
        size -= length
    return words
