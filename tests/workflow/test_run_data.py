"""Data of a run: validation text in equal parts, and what is made or rejected."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puna.data.shards import open_split
from puna.errors import DataError
from puna.training.recipe import Recipe
from puna.workflow.run_data import make_missing_data, open_data


@pytest.fixture
def two_corpora(tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, tmp_path: Path) -> Recipe:
    """The tiny recipe on its own corpus and on one of generated sums."""
    own = tiny_corpus.parent / "data"
    return tiny_recipe(
        f"data.mixture=[{{path: {own}}}, {{path: {tmp_path / 'sums'}, sources: [additions]}}]"
    )


def test_validation_ids_are_an_equal_part_of_each_corpus(two_corpora: Recipe) -> None:
    make_missing_data(two_corpora)
    data = open_data(two_corpora)
    ids = data.validation_ids(101)
    parts = [
        open_split(corpus.path, "validation").read(0, 50) for corpus in two_corpora.data.mixture
    ]
    np.testing.assert_array_equal(ids, np.concatenate(parts))


def test_validation_text_ids_are_an_equal_number_of_bytes_of_each_corpus(
    two_corpora: Recipe,
) -> None:
    """At most that many, and so many that the next token would be one too many."""
    make_missing_data(two_corpora)
    data = open_data(two_corpora)
    lengths = data.tokenizer.token_lengths()
    ids, first = (
        data.validation_text_ids(401),
        open_split(two_corpora.data.mixture[0].path, "validation"),
    )
    beginning = first.read(0, 201)
    taken = 0
    while lengths[beginning[: taken + 1]].sum() < 200:
        taken += 1
    np.testing.assert_array_equal(ids[:taken], beginning[:taken])
    sizes = [int(lengths[part].sum()) for part in (ids[:taken], ids[taken:])]
    assert all(200 - lengths.max() <= size < 200 for size in sizes)


def test_a_corpus_that_is_missing_and_names_no_sources_is_rejected(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    recipe = tiny_recipe("data.mixture=[{path: none-yet}]")
    with pytest.raises(DataError, match="names no sources to prepare it from: add sources"):
        make_missing_data(recipe)


def test_a_corpus_of_another_tokenizer_is_rejected(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    from puna.tokenizer.tokenizer import Tokenizer

    Tokenizer.train(["another text entirely " * 20], 270).save(tmp_path / "other")
    with pytest.raises(DataError, match="was prepared with another tokenizer than"):
        open_data(tiny_recipe(f"tokenizer.path={tmp_path / 'other'}"))
