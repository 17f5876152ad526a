"""A small tokenizer and small corpora for the data tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_texts import make_texts

from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(make_texts(50, seed=99), 300)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    """Write each text into a file of its own below a new folder, named so that reading keeps their
    order.
    """

    def write(texts: list[str], name: str = "corpus") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, text in enumerate(texts):
            (folder / f"{number:05d}.txt").write_text(text, encoding="utf-8", newline="")
        return folder

    return write
