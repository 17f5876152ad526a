"""The packages hold what the other tests of this folder read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from packages import llama2_tokenizer, llama3_ranks, llama31_tokenizer, smollm2


@pytest.mark.parametrize(
    ("file", "size"),
    [
        (smollm2, 98_362_432),
        (llama3_ranks, 2_183_982),
        (lambda: llama2_tokenizer() / "tokenizer.json", 1_795_303),
        (lambda: llama31_tokenizer() / "tokenizer.json", 9_085_698),
    ],
)
def test_files_are_there_whole(file: Callable[[], Path], size: int) -> None:
    assert file().stat().st_size == size
