"""The split of a corpus: every source of some text holds a part out, and never far too much."""

import pytest
from small_corpora import MakeRecipe, decoded, numbered_texts

from puna.corpus.local_processes import local_processes
from puna.corpus.pipeline import prepare_corpus
from puna.data.manifest import Manifest
from puna.data.prepare import prepare
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer

HERE = local_processes(1)


@pytest.mark.parametrize("fraction", [0.005, 0.1])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_small_source_holds_a_part_out(
    make_recipe: MakeRecipe, count: int, fraction: float
) -> None:
    """By hash alone most of these hold out nothing, and some half of the text or all of it."""
    texts = numbered_texts(count, seed=count)
    recipe = make_recipe({"web": texts}, {}, validation_fraction=fraction)
    prepare_corpus(recipe, HERE)
    manifest = Manifest.load(recipe.out / "web")
    train, held = (manifest.splits[split].bytes for split in ("train", "validation"))
    assert train + held == sum(len(text.encode()) for text in texts)
    assert 0 < held <= max(2 * fraction, 0.05) * (train + held)
    assert not manifest.lacks_validation


def test_the_split_is_that_of_sources_without_stages(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {"web": numbered_texts(6), "more": numbered_texts(60, seed=1)}, {}, validation_fraction=0.1
    )
    prepare_corpus(recipe, HERE)
    assert recipe.tokenizer is not None
    tokenizer = Tokenizer.load(recipe.tokenizer)
    for source in recipe.sources:
        plain = prepare(
            list(source.paths),
            tokenizer,
            recipe.out.parent / f"plain-{source.name}",
            validation_fraction=0.1,
            workers=1,
        )
        assert Manifest.load(recipe.out / source.name).content_hash == plain.content_hash


def test_copies_are_on_one_side(make_recipe: MakeRecipe) -> None:
    """Without a stage for them, copies stay; the split is that of the distinct texts."""
    texts = [*numbered_texts(3), *[numbered_texts(1)[0]] * 30]
    recipe = make_recipe({"web": texts}, {}, validation_fraction=0.3)
    prepare_corpus(recipe, HERE)
    assert sorted(decoded(recipe.out / "web")) == sorted(texts)
    splits = Manifest.load(recipe.out / "web").splits
    assert min(splits["train"].documents, splits["validation"].documents) > 0


def test_a_source_that_the_stages_empty_holds_nothing_out(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {"web": numbered_texts(5), "copies": numbered_texts(5)}, {"exact_duplicates": {}}
    )
    summary = prepare_corpus(recipe, HERE)
    assert summary.sources[1].stages["exact_duplicates"].documents_out == 0
    assert not Manifest.load(recipe.out / "copies").splits["train"].shards


def test_a_text_too_short_to_be_cut_names_its_source(make_recipe: MakeRecipe) -> None:
    with pytest.raises(DataError, match=r"the source web: the text has 2 bytes.*fraction 0"):
        prepare_corpus(make_recipe({"web": ["ab"]}, {}), HERE)
    whole = make_recipe({"web": ["ab"]}, {}, "whole", validation_fraction=0)
    prepare_corpus(whole, HERE)
    assert decoded(whole.out / "web") == ["ab"]
