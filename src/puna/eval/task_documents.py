"""The documents of the shipped tasks: generated from a seed, so that no data set is downloaded or
stored; and texts to score, from their sources.

Every document is a row of strings and numbers. `level` is the difficulty that a task is broken down
by, and levels take turns, so that the first documents hold each equally often.

Sources of the forms: Paperno et al. 2016, The LAMBADA dataset (the last word of a passage, which
its last sentence alone does not give); Brown et al. 2020, Language Models are Few-Shot Learners,
section 3.9.1 (sums by number of digits); Olsson et al. 2022, In-context Learning and Induction
Heads (repeated random tokens).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from puna.errors import ConfigError

Row = dict[str, Any]

DIGITS = (1, 2, 3, 4)
DISTANCES = (4, 16, 64)
"""In words."""
_SHOTS = 3
_NAMES = ["Anna", "Bruno", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas"]
_THINGS = ["lamp", "rope", "book", "key", "hat", "cup", "knife", "coat", "ball", "bag"]
_PLACES = ["kitchen", "garden", "cellar", "barn", "attic", "office", "hall", "garage"]
_VERBS = ["count", "find", "merge", "split", "sort", "filter", "load", "save"]
_NOUNS = ["words", "lines", "values", "items", "files", "names", "pairs", "rows"]


def documents(kind: str, n: int | None, seed: int, text: Sequence[str] = ()) -> list[Row]:
    """The first n documents of a kind, the same for equal seeds; all of a text where n is None.

    text: sources as of `puna data prepare`, which the kind `text` alone reads. Raises ConfigError
    for a kind that does not exist, n below 1, and a text that is missing; DataError for one that
    cannot be read.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}, but a task has at least 1 document")
    if kind == "text" and not text:
        raise ConfigError("the task scores a text, but none is given: add --text SOURCE")
    if kind == "text":
        return _texts(text, n)
    if kind not in _KINDS:
        raise ConfigError(f"there are no documents of kind {kind!r}: choose from {sorted(_KINDS)}")
    assert n is not None, "only a text has an end of its own"
    generator = random.Random(f"{kind} {seed}")
    return [_KINDS[kind](generator, number) for number in range(n)]


def harness_dataset(
    kind: str, n: int | None, seed: int, text: Sequence[str] = (), **_: object
) -> Mapping[str, Any]:
    """The same as a data set of lm-evaluation-harness, which also hands on what else it knows."""
    from datasets import Dataset

    return {"test": Dataset.from_list(documents(kind, n, seed, text))}


def _texts(sources: Sequence[str], n: int | None) -> list[Row]:
    from puna.data.sources import read_texts  # brings pyarrow

    found: list[Row] = []
    for text in read_texts(sources):
        if len(found) == n:
            break
        found.append({"text": text})
    return found


def _last_word(generator: random.Random, _: int) -> Row:
    """Three people bring three things to three places; one goes back for a thing."""
    names, things, places = (generator.sample(words, 3) for words in (_NAMES, _THINGS, _PLACES))
    facts = [
        f"{name} took the {thing} to the {place}."
        for name, thing, place in zip(names, things, places, strict=True)
    ]
    asked = generator.randrange(3)
    return {
        "context": f"{' '.join(facts)} Later {names[asked]} looked for the {things[asked]} in the",
        "target": f" {places[asked]}",
        "choices": places,
        "answer": asked,
    }


def _sum(generator: random.Random, number: int) -> Row:
    """A sum of two numbers of equally many digits, behind three others."""
    digits = DIGITS[number % len(DIGITS)]
    first = 10 ** (digits - 1) if digits > 1 else 0
    pairs = [
        (generator.randrange(first, 10**digits), generator.randrange(first, 10**digits))
        for _ in range(_SHOTS + 1)
    ]
    *shots, (a, b) = pairs
    lines = "".join(f"{one}+{other}={one + other}\n" for one, other in shots)
    return {"context": f"{lines}{a}+{b}=", "target": f"{a + b}\n", "level": f"{digits}_digits"}


def _copy(generator: random.Random, number: int) -> Row:
    """A line of random words, repeated up to its last."""
    distance = DISTANCES[number % len(DISTANCES)]
    words = list(_words(generator, distance))
    return {
        "context": f"{' '.join(words)}\n{' '.join(words[:-1])}",
        "target": f" {words[-1]}",
        "level": f"{distance}_words",
    }


def _induction(generator: random.Random, number: int) -> Row:
    """Two random words once, others between, and the first again."""
    distance = DISTANCES[number % len(DISTANCES)]
    first, second, *between = _words(generator, distance + 1)
    return {
        "context": f"{first} {second} {' '.join(between)} {first}",
        "target": f" {second}",
        "level": f"{distance}_words",
    }


def _python(generator: random.Random, _: int) -> Row:
    """The head of a function and its docstring, which leave the code to be written."""
    verb, noun = generator.choice(_VERBS), generator.choice(_NOUNS)
    arguments = generator.choice(["path", "text", f"{noun}, limit", f"{noun}, key=None"])
    more = generator.choice(["", " and return them", " of a file"])
    docstring = f'    """{verb.capitalize()} the {noun}{more}."""\n'
    return {"prompt": f"def {verb}_{noun}({arguments}):\n{docstring}"}


def _words(generator: random.Random, count: int) -> Iterator[str]:
    """Different words of a consonant, a vowel and a consonant."""
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    words = [a + b + c for a in consonants for b in vowels for c in consonants]
    yield from generator.sample(words, count)


_KINDS: Mapping[str, Callable[[random.Random, int], Row]] = {
    "last_word": _last_word,
    "sums": _sum,
    "copy": _copy,
    "induction": _induction,
    "python": _python,
}
