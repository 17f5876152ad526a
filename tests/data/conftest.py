"""A small tokenizer and small corpora for the data tests."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from puna.tokenizer.tokenizer import Tokenizer

WORDS = ["the", "llama", "reads", "1984", "old", "pages", "über", "naïve", "東京", "мир", "🦙", "is", "was", "near", "far"]


def make_texts(count: int, seed: int = 0, longest: int = 200) -> list[str]:
    """Distinct texts of words in several scripts, of 20 to `longest` words."""
    rng = random.Random(seed)
    return [f"{seed}.{number}: " + " ".join(rng.choices(WORDS, k=rng.randint(20, longest))) for number in range(count)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(make_texts(50, seed=99), 300)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    """Write each text into a file of its own below a new folder, named so that reading keeps their order."""

    def write(texts: list[str], name: str = "corpus") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, text in enumerate(texts):
            (folder / f"{number:05d}.txt").write_text(text, encoding="utf-8", newline="")
        return folder

    return write
