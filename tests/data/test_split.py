"""The split of a corpus: by hash where that does, by bytes where a small corpus would have an empty
side or lose far too much.
"""

import random
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from said import said

from puna.data.dedup import split_of
from puna.data.split import MOST, SMALL_BYTES, DocumentSize, SplitPlan, cut_index, plan_split
from puna.errors import DataError

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True)


def split(texts: list[str], fraction: float) -> tuple[SplitPlan, list[str], list[str]]:
    """The plan, the training texts, and the validation texts."""
    plan = plan_split([DocumentSize.of(text) for text in texts], fraction)
    parts = [part for text in texts for part in plan.parts(DocumentSize.of(text).hash, text)]
    train, validation = (
        [text for side, text in parts if side == name] for name in ("train", "validation")
    )
    return plan, train, validation


def size_of(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def made(size: int, seed: int = 0) -> str:
    """About `size` bytes of lines of words, with blank lines between some."""
    words = (f"w{(number * 7919 + seed) % 997}" for number in range(size))
    text = ""
    for number, word in enumerate(words):
        text += word + ("\n\n" if number % 40 == 39 else "\n" if number % 8 == 7 else " ")
        if len(text) >= size:
            break
    return text


@pytest.mark.parametrize(
    "texts",
    [
        [made(1_000)],
        [made(60_000)],
        [made(15_625, seed) for seed in range(64)],
        [made(1_000, seed) for seed in range(3)],
        [made(300 * (1 + seed), seed) for seed in range(5)],
        [made(120, seed) for seed in range(40)],
    ],
    ids=["1 kB", "60 kB", "1 MB", "three notes", "five notes", "40 fortunes"],
)
def test_a_small_corpus_holds_out_a_part_and_at_most_twice_the_fraction(texts: list[str]) -> None:
    """One file below a piece used to fall to one side whole, and three notes by a third."""
    _, train, validation = split(texts, 0.05)
    assert 0.02 <= size_of(validation) / size_of(texts) <= 0.1
    assert sorted("".join(train + validation)) == sorted("".join(texts))


@given(TEXTS, st.floats(0.001, 0.999))
def test_both_sides_have_text_and_no_character_is_lost(texts: list[str], fraction: float) -> None:
    texts = [text for text in texts if text.strip()]
    assume(any(len(text.strip().encode()) > 4 for text in texts))
    plan, train, validation = split(texts, fraction)
    assert all(text.strip() for text in train + validation)
    assert train
    assert validation
    assert sorted("".join(train + validation)) == sorted("".join(texts))
    if not plan.by_bytes:
        assert size_of(validation) <= MOST * fraction * size_of(texts)
        assert train == [t for t in texts if split_of(DocumentSize.of(t).hash, fraction) == "train"]


@given(TEXTS.filter(bool), st.floats(0.01, 0.5), st.randoms(use_true_random=False))
def test_the_order_of_the_documents_does_not_matter(
    texts: list[str], fraction: float, rng: random.Random
) -> None:
    texts = [text + " and enough to cut" for text in texts]
    shuffled = rng.sample(texts, len(texts))
    assert plan_split(map(DocumentSize.of, texts), fraction) == plan_split(
        map(DocumentSize.of, shuffled), fraction
    )


def test_a_large_corpus_is_read_no_further_than_it_takes() -> None:
    """Past 16 MiB the hash decides as soon as each side has a document, whatever its share."""
    read = []

    def documents() -> Iterator[DocumentSize]:
        for number in range(10_000):
            read.append(number)
            yield DocumentSize(number << 118, SMALL_BYTES // 8, 1)

    assert plan_split(documents(), 0.004) == SplitPlan(0.004)
    assert len(read) == 8
    read.clear()
    late = (DocumentSize((99 - number) << 121, SMALL_BYTES, 1) for number in range(100))
    assert plan_split(late, 0.01) == SplitPlan(0.01)


def test_nothing_is_held_out_at_a_fraction_of_zero() -> None:
    assert split(["a"], 0)[1:] == (["a"], [])


@pytest.mark.parametrize("texts", [["a"], ["a" + " " * 99], ["a", "b", "c"]])
def test_too_little_text_is_rejected_with_its_size(texts: list[str]) -> None:
    with pytest.raises(
        DataError, match=said(f"{size_of(texts)} bytes ... {len(texts)} documents ... add text")
    ):
        split(texts, 0.05)


@pytest.mark.parametrize(
    ("text", "wanted", "held_out"),
    [
        ("one two\n\nthree four\n\nfive six", 10, "five six"),
        ("one two\nthree four\nfive six", 10, "five six"),
        ("one two three four", 6, "four"),
        ("onetwothreefour", 4, "four"),
        ("one\n\ntwo\n\n", 3, "two\n\n"),
        ("日本語日本語", 4, "語"),
        ("ab", 99, "b"),
        ("  ab", 99, "b"),
    ],
)
def test_a_document_is_cut_at_a_border(text: str, wanted: int, held_out: str) -> None:
    assert text[cut_index(text, wanted) :] == held_out
