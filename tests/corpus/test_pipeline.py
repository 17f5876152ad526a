"""A corpus from its recipe to shards: what is kept, counted and continued."""

import pytest
from small_corpora import MakeRecipe, contents, decoded, numbered_texts

from puna.config import read_yaml
from puna.corpus import pipeline
from puna.corpus.local_processes import local_processes
from puna.corpus.pipeline import CorpusProgress, prepare_corpus
from puna.corpus.summary import CorpusSummary
from puna.data.shards import open_split
from puna.errors import DataError
from puna.training.recipe import DataRecipe

HERE = local_processes(1)


def test_copies_within_and_across_sources_are_kept_once(make_recipe: MakeRecipe) -> None:
    made = numbered_texts(60)
    recipe = make_recipe(
        {"first": [*made[:40], made[3]], "second": [*made[30:], made[50]]},
        {"exact_duplicates": {}},
        validation_fraction=0.2,
    )
    summary = prepare_corpus(recipe, HERE)
    assert sorted(decoded(recipe.out / "first")) == sorted(made[:40])
    assert sorted(decoded(recipe.out / "second")) == sorted(made[40:])
    count = summary.stages["exact_duplicates"]
    assert (count.documents_in, count.documents_out) == (72, 60)
    (reason,) = count.dropped.values()
    assert reason.documents == 12
    assert len(reason.samples) == 5
    assert summary == CorpusSummary.load(recipe.out)
    assert not (recipe.out / "work").exists()
    assert open_split(recipe.out / "first", "train").manifest.duplicates == 1


@pytest.mark.usefixtures("small_tasks")
def test_processes_write_the_same_bytes(make_recipe: MakeRecipe) -> None:
    made = numbered_texts(60)
    stages = {"normalize": {}, "exact_duplicates": {}, "personal_data": {}}
    folders = []
    for out, workers in (("one", 1), ("two", 2)):
        recipe = make_recipe(
            {"web": [*made, *made[:9]]}, stages, out, validation_fraction=0.2, piece_bytes=1500
        )
        prepare_corpus(recipe, local_processes(workers))
        folders.append(contents(recipe.out))
    one, two = folders
    assert len([name for name in one if name.endswith(".tokens")]) > 4
    assert one == two


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("part", ["filter", "compare", "finish"])
def test_an_interrupted_corpus_is_continued(make_recipe: MakeRecipe, part: str) -> None:
    made = numbered_texts(60)
    sources, stages = {"web": [*made, *made[:9]]}, {"exact_duplicates": {}}
    options = {"validation_fraction": 0.2, "piece_bytes": 1500}
    whole = make_recipe(sources, stages, "whole", **options)
    prepare_corpus(whole, HERE)

    def stop(now: CorpusProgress) -> None:
        if now.part == part and now.done > now.total / 3:
            raise KeyboardInterrupt

    broken = make_recipe(sources, stages, "broken", **options)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(broken, HERE, stop)
    assert not (broken.out / "corpus.json").exists()
    seen: list[CorpusProgress] = []
    prepare_corpus(broken, HERE, seen.append)
    first = next(now for now in seen if now.part == part)
    assert first.done > 0
    assert seen[-1] == CorpusProgress("finish", seen[-1].total, seen[-1].total)
    assert contents(broken.out) == contents(whole.out)


def test_another_recipe_or_text_is_rejected(make_recipe: MakeRecipe) -> None:
    prepare_corpus(make_recipe({"web": numbered_texts(20)}, {}), HERE)
    with pytest.raises(DataError, match=r"validation_fraction was 0\.005 and is 0\.3"):
        prepare_corpus(make_recipe({"web": numbered_texts(20)}, {}, validation_fraction=0.3), HERE)
    again = prepare_corpus(make_recipe({"web": numbered_texts(20)}, {}), HERE)
    assert again.stages["read"].documents_in == 20
    with pytest.raises(DataError, match="the files of web have changed"):
        prepare_corpus(make_recipe({"web": numbered_texts(21)}, {}), HERE)


def test_a_folder_of_other_files_is_left_alone(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"web": numbered_texts(3)}, {})
    recipe.out.mkdir()
    (recipe.out / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="holds files, but no corpus"):
        prepare_corpus(recipe, HERE)
    assert [path.name for path in recipe.out.iterdir()] == ["thesis.tex"]


def test_without_a_tokenizer_documents_are_written(make_recipe: MakeRecipe) -> None:
    made = numbered_texts(12)
    first = make_recipe({"web": [*made, made[0]]}, {"exact_duplicates": {}}, "raw", tokenizer=None)
    prepare_corpus(first, HERE)
    again = make_recipe({}, {}, sources=[{"name": "web", "paths": [str(first.out / "web")]}])
    summary = prepare_corpus(again, HERE)
    assert summary.stages["tokenize"].documents_out == len(made)


def test_a_mixture_is_what_a_training_recipe_extends(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"web": numbered_texts(20), "books": numbered_texts(20, seed=1)}, {})
    prepare_corpus(recipe, HERE)
    mixture = DataRecipe.model_validate(read_yaml(recipe.out / pipeline.MIXTURE_NAME)["data"])
    assert [(part.path, part.weight) for part in mixture.mixture] == [
        (str(recipe.out / "web"), 1.0),
        (str(recipe.out / "books"), 1.0),
    ]


def test_a_share_of_a_source_is_taken(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"web": numbered_texts(80)}, {})
    (source,) = recipe.sources
    half = recipe.model_copy(update={"sources": (source.model_copy(update={"share": 0.5}),)})
    count = prepare_corpus(half, HERE).stages["sample"]
    assert count.documents_in == 80
    assert 25 < count.documents_out < 55
    assert list(count.dropped) == ["not in the share of 0.5"]


def test_stages_stand_in_their_order_though_a_source_lacks_one(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {"all": numbered_texts(20), "some": numbered_texts(20, seed=1)},
        {"normalize": {}, "exact_duplicates": {}},
    )
    first, second = recipe.sources
    sources = (first, second.model_copy(update={"share": 0.5}))
    summary = prepare_corpus(recipe.model_copy(update={"sources": sources}), HERE)
    assert list(summary.stages) == ["read", "normalize", "sample", "exact_duplicates", "tokenize"]


def test_damage_beyond_the_share_is_an_error(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"web": numbered_texts(15)}, {})
    for number in range(11):
        (recipe.out.parent / "web" / f"bad{number}.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataError, match="11 of 26 files and rows of the source web are bad"):
        prepare_corpus(recipe, HERE)
    tolerant = recipe.model_copy(update={"bad_share": 0.6, "out": recipe.out.parent / "tolerant"})
    assert prepare_corpus(tolerant, HERE).sources[0].left_out["not_utf8"] == 11


def test_a_source_without_text_and_a_generated_one_are_errors(make_recipe: MakeRecipe) -> None:
    with pytest.raises(DataError, match="the source web gives no text"):
        prepare_corpus(make_recipe({"web": ["  \n"]}, {}), HERE)
    generated = make_recipe({}, {}, "sums", sources=[{"name": "sums", "paths": ["additions"]}])
    with pytest.raises(DataError, match="additions is generated"):
        prepare_corpus(generated, HERE)


def test_characters_that_the_vocabulary_lacks(make_recipe: MakeRecipe) -> None:
    """Every byte-level vocabulary has all characters: none is dropped, and the tokens add up."""
    recipe = make_recipe({"web": ["東京 ☃ 🦙", *numbered_texts(5)]}, {}, validation_fraction=0.3)
    count = prepare_corpus(recipe, HERE).stages["tokenize"]
    assert not count.dropped
    manifest = open_split(recipe.out / "web", "train").manifest
    assert count.changed["tokens"] == sum(split.tokens for split in manifest.splits.values())
    assert count.bytes_out == sum(split.bytes for split in manifest.splits.values())
