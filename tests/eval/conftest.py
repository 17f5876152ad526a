"""Tokenizers for text with numbers, one for each treatment of digits."""

from collections.abc import Mapping

import pytest

from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> Mapping[Digits, Tokenizer]:
    texts = [f"word {number} + {2 * number} = {3 * number}\n    " for number in range(3000)]
    return {mode: Tokenizer.train(texts, 600, mode) for mode in DIGITS_MODES}
