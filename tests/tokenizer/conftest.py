"""Small vocabularies trained once for the whole folder, on the standard library's own source
text.
"""

import json
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer

VOCAB_SIZE = 1000


@pytest.fixture(scope="session")
def stdlib_texts() -> list[str]:
    """About 0.6 MB of prose and code, six thousand years between 2000 and 2029, and other
    scripts.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    names = (
        "argparse",
        "ast",
        "difflib",
        "doctest",
        "json/decoder",
        "pydoc",
        "random",
        "shutil",
        "textwrap",
    )
    texts = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in names]
    numbers = ",".join(str(2000 + n % 30) for n in range(6000))
    return [*texts, numbers, "こんにちは世界。 Привет, мир! ¿Qué tal? 🦙🦙 " * 20]


@pytest.fixture(scope="session")
def tokenizers_by_digits(stdlib_texts: list[str]) -> Mapping[Digits, Tokenizer]:
    """One vocabulary of 1,000 tokens for each digits mode."""
    return {mode: Tokenizer.train(stdlib_texts, VOCAB_SIZE, mode) for mode in DIGITS_MODES}


@pytest.fixture(scope="session")
def tokenizer(tokenizers_by_digits: Mapping[Digits, Tokenizer]) -> Tokenizer:
    """The default: one digit a token."""
    return tokenizers_by_digits["one"]


@pytest.fixture
def edited(tokenizer: Tokenizer) -> Callable[[Callable[[dict[str, Any]], None]], str]:
    """A function that edits the content of the default tokenizer.json and returns the new text."""

    def edit(change: Callable[[dict[str, Any]], None]) -> str:
        content = json.loads(tokenizer.to_json())
        change(content)
        return json.dumps(content)

    return edit
