"""Data of a run: validation text, samples of other text, and what is made or rejected."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puna.data.shards import open_split
from puna.errors import DataError
from puna.inference.language_model import LanguageModel
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe
from puna.training.trainer import Validation
from puna.workflow.run_data import make_missing_data, open_data, sample_ids


@pytest.fixture
def two_corpora(tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, tmp_path: Path) -> Recipe:
    """The tiny recipe on its own corpus and on one of generated sums."""
    own = tiny_corpus.parent / "data"
    return tiny_recipe(
        f"data.mixture=[{{path: {own}}}, {{path: {tmp_path / 'sums'}, sources: [additions]}}]"
    )


def test_held_out_windows_are_an_equal_part_of_each_corpus(two_corpora: Recipe) -> None:
    make_missing_data(two_corpora)
    found = open_data(two_corpora).held_out(two_corpora)
    splits = [open_split(corpus.path, "validation") for corpus in two_corpora.data.mixture]
    each = two_corpora.train.validation_tokens // 2 // two_corpora.context_length
    assert len(found.windows) == 2 * each
    for number, window in enumerate(found.windows):
        split = splits[number // each]
        everything = split.read(0, split.num_tokens)
        assert any(
            np.array_equal(everything[start : start + len(window)], window)
            for start in range(0, len(everything), two_corpora.context_length)
        )
    assert found.all_targets == sum(split.num_tokens - 1 for split in splits)


def test_every_look_scores_the_same_windows_with_the_mask_of_training(
    tiny_recipe: Callable[..., Recipe], tiny_llama: LanguageModel
) -> None:
    """Trained with the mask and validated without it, a model would be scored on what it was never
    taught.
    """
    lengths, model = tiny_llama.tokenizer.token_lengths(), tiny_llama.model
    scores = {}
    for masked, separator in ((True, tiny_llama.tokenizer.bos_id), (False, None)):
        recipe = tiny_recipe(f"train.mask_documents={str(masked).lower()}")
        data = open_data(recipe)
        looks = [data.inputs.validate(model) for _ in range(2)]
        assert looks[0] == looks[1]
        held_out = data.held_out(recipe)
        score = held_out.score(model, lengths, separator=separator)
        scores[masked] = score.loss
        assert looks[0] == Validation(
            score.loss, score.bits_per_byte, len(held_out.targets), held_out.all_targets
        )
    assert abs(scores[True] - scores[False]) > 1e-4


def test_validation_documents_are_all_of_them_one_after_another(two_corpora: Recipe) -> None:
    make_missing_data(two_corpora)
    ids, documents = open_data(two_corpora).validation_documents()
    expected = [
        document
        for corpus in two_corpora.data.mixture
        for document in open_split(corpus.path, "validation").documents()
    ]
    np.testing.assert_array_equal(ids, np.concatenate(expected))
    for number, document in enumerate(expected):
        np.testing.assert_array_equal(ids[documents == number], document)
    assert documents[-1] == len(expected) - 1


def test_sources_are_those_that_the_corpora_were_prepared_from(two_corpora: Recipe) -> None:
    """The first one was prepared before, and its part of the mixture names none."""
    make_missing_data(two_corpora)
    assert not two_corpora.data.mixture[0].sources
    first = open_split(two_corpora.data.mixture[0].path, "train").manifest.inputs.sources
    assert open_data(two_corpora).sources == (*(source.name for source in first), "additions")


def test_a_sample_is_the_same_text_for_every_tokenizer_and_in_no_order_of_names(
    two_corpora: Recipe, tmp_path: Path
) -> None:
    make_missing_data(two_corpora)
    ours = open_data(two_corpora).tokenizer
    other = Tokenizer.train(["another text entirely " * 20], 270)
    for number in range(60):
        (tmp_path / f"{number:02}.txt").write_text(f"{number:02} " * 100)
    samples = [
        tokenizer.decode_bytes(
            sample_ids([str(tmp_path)], tokenizer, max_bytes=1000, each=90).tolist(),
            skip_special=True,
        )
        for tokenizer in (ours, other)
    ]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 12 * 90  # the first twelve that reach 1000
    found = [samples[0][start : start + 2] for start in range(0, 12 * 90, 90)]
    assert len(set(found)) == 12
    assert found != sorted(found)


def test_a_corpus_that_is_missing_and_names_no_sources_is_rejected(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    recipe = tiny_recipe("data.mixture=[{path: none-yet}]")
    with pytest.raises(DataError, match="names no sources to prepare it from: add sources"):
        make_missing_data(recipe)


def test_a_corpus_of_another_tokenizer_is_rejected(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    Tokenizer.train(["another text entirely " * 20], 270).save(tmp_path / "other")
    with pytest.raises(DataError, match="was prepared with another tokenizer than"):
        open_data(tiny_recipe(f"tokenizer.path={tmp_path / 'other'}"))
