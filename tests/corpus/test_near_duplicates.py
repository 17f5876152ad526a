"""Near-duplicates against the theory of MinHash and its bands."""

import math
import random

import numpy as np
import pytest
from small_corpora import MakeRecipe

from puna.corpus.local_processes import local_processes
from puna.corpus.near_duplicates import NearDuplicateOptions, band_keys, keys_of, shingles
from puna.corpus.pipeline import prepare_corpus
from puna.corpus.words import ngram_hashes, words_of

PAIRS = 400


def overlapping(similarity: float, generator: random.Random, size: int = 100) -> tuple[str, str]:
    """Two texts of `size` words whose sets of single words have about this Jaccard similarity:
    shared words s and 2 (size - s) others, so s = size * 2 J / (1 + J).
    """
    shared = round(size * 2 * similarity / (1 + similarity))
    words = [f"w{generator.getrandbits(60):x}" for _ in range(2 * size - shared)]
    common, ours, theirs = words[:shared], words[shared:size], words[size:]
    return " ".join(common + ours), " ".join(common + theirs)


def jaccard(a: str, b: str) -> float:
    one, two = set(words_of(a)), set(words_of(b))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize(
    ("similarity", "published"),
    [(0.4, 0.009), (0.5, 0.053), (0.7, 0.565), (0.8, 0.924), (0.9, 0.9996)],
)
def test_the_curve_of_the_defaults(similarity: float, published: float) -> None:
    """FineWeb's figures for 14 bands of 8, its appendix on deduplication among them 56%, 77%, 92%
    and 98.8% at 0.7, 0.75, 0.8 and 0.85.
    """
    assert NearDuplicateOptions().match_probability(similarity) == pytest.approx(
        published, abs=1e-3
    )


@pytest.mark.parametrize("similarity", [0.5, 0.65, 0.7, 0.8, 0.9])
@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (20, 5)])
def test_pairs_match_as_often_as_the_curve_says(similarity: float, bands: int, rows: int) -> None:
    """Recall at a known similarity, within four standard deviations."""
    pytest.importorskip("rensa")
    options = NearDuplicateOptions(words=1, bands=bands, rows=rows)
    generator = random.Random(f"{similarity} {bands}")
    found, expected = 0, []
    for _ in range(PAIRS):
        a, b = overlapping(similarity, generator)
        keys = band_keys([a, b], options)
        found += bool((keys[:, 0] == keys[:, 1]).any())
        expected.append(options.match_probability(jaccard(a, b)))
    mean = sum(expected)
    deviation = math.sqrt(sum(p * (1 - p) for p in expected))
    assert abs(found - mean) <= 4 * deviation + 1


def test_precision_and_recall_of_a_corpus(make_recipe: MakeRecipe) -> None:
    """A corpus with pairs of known overlap: near ones are left out as often as the curve says, and
    of those that are left out nearly all are near.
    """
    pytest.importorskip("rensa")
    generator = random.Random(1)
    options = {"words": 1, "bands": 14, "rows": 8}
    near = [overlapping(0.85, generator) for _ in range(150)]
    far = [overlapping(0.4, generator) for _ in range(150)]
    first = [pair[0] for pair in (*near, *far)]
    second = [pair[1] for pair in (*near, *far)]
    recipe = make_recipe(
        {"first": first, "second": second}, {"near_duplicates": options}, tokenizer=None
    )
    summary = prepare_corpus(recipe, local_processes(1))
    count = {source.name: source.stages["near_duplicates"] for source in summary.sources}
    assert count["first"].documents_out == 300
    dropped = count["second"].documents_in - count["second"].documents_out
    curve = NearDuplicateOptions(**options).match_probability
    true, false = 150 * curve(jaccard(*near[0])), 150 * curve(jaccard(*far[0]))
    deviation = math.sqrt(true * (1 - true / 150) + false * (1 - false / 150))
    assert abs(dropped - true - false) <= 4 * deviation + 1
    assert true / (true + false) > 0.98  # precision
    assert true / 150 > 0.97  # recall


def test_shingles_and_words() -> None:
    assert words_of("The cat's-paw, 3.5 É!") == ["the", "cat", "s", "paw", "3", "5", "é"]
    assert words_of("東京 tower") == ["東", "京", "tower"]
    assert shingles("a b c d", 3) == ["a b c", "b c d"]
    assert shingles("a b", 3) == ["a b"]
    assert shingles("", 3) == [""]


def test_ascii_words_are_those_of_the_other_pattern() -> None:
    text = "It's 10 o'clock_now -- (see RFC-822)."
    assert words_of(text) == words_of(text + " é")[:-1]


def test_ngram_hashes_are_equal_where_the_words_are() -> None:
    words = ["a", "b", "c", "a", "b", "c", "d"]
    hashes = ngram_hashes(words, 3)
    runs = [tuple(words[at : at + 3]) for at in range(5)]
    for a in range(5):
        for b in range(5):
            assert (hashes[a] == hashes[b]) == (runs[a] == runs[b])
    assert not ngram_hashes(words, 8).size


def test_keys_tell_bands_apart() -> None:
    options = NearDuplicateOptions(bands=2, rows=2)
    minima = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [2, 1, 3, 4]], dtype=np.uint32)
    keys = keys_of(minima, options)
    assert (keys[0] == keys[0][0]).tolist() == [True, True, False]
    assert (keys[1] == keys[1][0]).tolist() == [True, False, True]
