"""Training: the same texts give the same vocabulary; sizes, samples and errors."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import Digits
from puna.tokenizer.special import LLAMA3_SPECIAL_TOKENS
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.training import MAX_SAMPLE_BYTES, MIN_VOCAB_SIZE, take_turns

TRAIN_AND_PRINT_HASH = """
import sys
from puna.tokenizer.tokenizer import Tokenizer
texts = ["low lower newest widest"] * 3 + ["the cat sat on the mat, 2024 times"] * 2
texts += ["ab ba ab ba"]
print(Tokenizer.train(texts, 300).hash)
"""


def test_two_trainings_give_the_same_file(stdlib_texts: list[str], tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(stdlib_texts, tokenizer.vocab_size).to_json() == tokenizer.to_json()


def test_the_order_of_texts_does_not_count_when_all_are_read(
    stdlib_texts: list[str], tokenizer: Tokenizer
) -> None:
    assert Tokenizer.train(reversed(stdlib_texts), tokenizer.vocab_size).hash == tokenizer.hash


def test_hash_seeds_and_thread_counts_do_not_change_the_vocabulary() -> None:
    """Ties are everywhere in a tiny text, so any dependence on the order of a hash table would
    show.
    """
    hashes = {
        subprocess.run(
            [sys.executable, "-c", TRAIN_AND_PRINT_HASH],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    }
    assert len(hashes) == 1


def test_merges_follow_frequency() -> None:
    """In "ab" five times and "cd" three times there are two merges to learn, the frequent one
    first.
    """
    tokenizer = Tokenizer.train(["ab"] * 5 + ["cd"] * 3 + ["ef"], 300)
    assert [tokenizer.token_bytes(id_) for id_ in range(256, tokenizer.vocab_size - 8)] == [
        b"ab",
        b"cd",
    ]


@pytest.mark.parametrize("digits", ["one", "two", "three", "off"])
def test_layout_is_bytes_merges_special(
    tokenizers_by_digits: Mapping[Digits, Tokenizer], digits: Digits
) -> None:
    tokenizer = tokenizers_by_digits[digits]
    assert tokenizer.vocab_size == 1000
    assert {tokenizer.token_bytes(id_) for id_ in range(256)} == {
        bytes([byte]) for byte in range(256)
    }
    assert all(len(tokenizer.token_bytes(id_)) > 1 for id_ in range(256, 992))
    assert tokenizer.special_tokens == dict(
        zip(LLAMA3_SPECIAL_TOKENS, range(992, 1000), strict=True)
    )


def test_the_smallest_vocabulary_is_bytes_and_special_tokens() -> None:
    tokenizer = Tokenizer.train(["aaaa"], MIN_VOCAB_SIZE)
    assert tokenizer.vocab_size == MIN_VOCAB_SIZE == 264
    assert tokenizer.decode(tokenizer.encode("é 🦙")) == "é 🦙"
    with pytest.raises(TokenizerError, match=said("vocab_size ... 263 ... at least 264")):
        Tokenizer.train(["aaaa"], 263)


def test_a_sample_that_is_too_small_gives_a_smaller_vocabulary() -> None:
    assert Tokenizer.train(["abab"], 5000).vocab_size < 270


def test_the_sample_ends_at_max_bytes_and_the_stream_is_read_no_further() -> None:
    def texts() -> Iterator[str]:
        yield "ab" * 10
        yield "é" * 10  # two bytes each, of which one and a half characters fit
        raise AssertionError("read past the sample")

    read: list[int] = []
    Tokenizer.train(texts(), 300, max_bytes=23, on_progress=read.append)
    assert read == [20, 22]


def test_a_long_text_is_sampled_in_pieces_that_change_nothing() -> None:
    words = "some words, and more words\n"
    read: list[int] = []
    whole = Tokenizer.train([words * 10_000], 300, on_progress=read.append)
    assert len(read) > 3
    assert read[-1] == len(words) * 10_000
    assert whole.hash == Tokenizer.train([words] * 10_000, 300).hash


def test_an_error_of_the_source_reaches_the_caller() -> None:
    def texts() -> Iterator[str]:
        yield "some text"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        Tokenizer.train(texts(), 300)


@pytest.mark.parametrize("max_bytes", [0, MAX_SAMPLE_BYTES + 1])
def test_samples_past_the_32_bit_counts_are_rejected(max_bytes: int) -> None:
    """A pair occurs at most once a byte, so a sample below 2^31 bytes cannot wrap a signed 32-bit
    count.
    """
    assert MAX_SAMPLE_BYTES < 2**31
    with pytest.raises(TokenizerError, match=said(f"max_bytes ... {max_bytes:,}")):
        Tokenizer.train(["text"], 300, max_bytes=max_bytes)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_rejected(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        Tokenizer.train(texts, 300)


def test_usual_mistakes_are_rejected() -> None:
    with pytest.raises(TokenizerError, match="letter by letter"):
        Tokenizer.train("one string", 300)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        Tokenizer.train(["ok", "\udfff"], 300)
    with pytest.raises(TokenizerError, match=said("digits ... 'four'")):
        Tokenizer.train(["text"], 300, "four")  # type: ignore[arg-type]


def test_taking_turns_mixes_streams_of_different_length() -> None:
    assert list(take_turns([["a1"], ["b1", "b2", "b3"], [], ["c1", "c2"]])) == [
        "a1",
        "b1",
        "c1",
        "b2",
        "c2",
        "b3",
    ]
