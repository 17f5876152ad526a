"""Llama 3.1's `tokenizer.json`, written as ranks, is the file that Meta published for Llama 3."""

import packages

from puna.formats.tiktoken_ranks import meta_vocabulary, special_note
from puna.tokenizer.tokenizer import Tokenizer


def test_the_published_file_comes_out_byte_by_byte() -> None:
    tokenizer = Tokenizer.load(packages.llama31_tokenizer())
    assert meta_vocabulary(tokenizer) == packages.llama3_ranks().read_bytes()
    assert special_note(tokenizer) is None
