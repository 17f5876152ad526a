"""Texts that the data tests make, the same on every machine."""

import random

WORDS = [
    "the",
    "llama",
    "reads",
    "1984",
    "old",
    "pages",
    "über",
    "naïve",
    "東京",
    "мир",
    "🦙",
    "is",
    "was",
    "near",
    "far",
]


def make_texts(count: int, seed: int = 0, longest: int = 200) -> list[str]:
    """Distinct texts of words in several scripts, of 20 to `longest` words."""
    rng = random.Random(seed)
    return [
        f"{seed}.{number}: " + " ".join(rng.choices(WORDS, k=rng.randint(20, longest)))
        for number in range(count)
    ]
