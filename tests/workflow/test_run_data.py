"""Data of a run: validation text, samples of other text, and what is made or rejected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import said

from puna.data.left_out import BAD_SHARE
from puna.data.manifest import Manifest
from puna.data.reading import DEFAULT_READING, Reading
from puna.data.shards import open_split
from puna.errors import DataError
from puna.inference.language_model import LanguageModel
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import CorpusRecipe, Recipe
from puna.training.run_inputs import Validation
from puna.workflow.missing_data import make_missing_data
from puna.workflow.observer import RunObserver
from puna.workflow.run_data import open_data, sample_ids


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


def test_a_model_names_every_end_of_a_generation(
    tiny_recipe: Callable[..., Recipe], tiny_llama: LanguageModel
) -> None:
    """The end of a text first, which documents are closed with; a chat ends at a turn's."""
    special = tiny_llama.tokenizer.special_tokens
    ends = open_data(tiny_recipe()).inputs.special_ids["eos_ids"]
    assert ends[0] == special["<|end_of_text|>"]
    assert set(ends) == {special[f"<|{name}|>"] for name in ("end_of_text", "eot_id", "eom_id")}


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


def test_options_of_reading_reach_the_tokenizer_and_the_corpus(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Also where the text lies around the folders that the run writes."""
    rows = "".join(f"{number},word{number} {'llama ' * number}\n" for number in range(40))
    (tmp_path / "a.csv").write_text("id,body\n" + rows)
    (tmp_path / "b.txt").write_text("another")
    recipe = tiny_recipe(
        f"run={tmp_path / 'run'}",
        f"tokenizer.path={tmp_path / 'tokenizer'}",
        f"data.mixture=[{{path: {tmp_path / 'data'}, sources: [{tmp_path}], text_field: body,"
        " include: [csv], max_documents: 30, normalize: lf}]",
    )
    make_missing_data(recipe)
    manifest = Manifest.load(tmp_path / "data")
    assert sum(split.documents for split in manifest.splits.values()) == 30
    assert manifest.inputs.sources[0].files == 1
    assert (manifest.inputs.text_field, manifest.inputs.normalize) == ("body", "lf")
    assert b"llama" in Tokenizer.load(tmp_path / "tokenizer").to_json().encode()


def test_defaults_of_a_recipe_are_those_of_the_reader() -> None:
    corpus = dict(CorpusRecipe(path="data"))
    for key, value in {**DEFAULT_READING.model_dump(), "bad_share": BAD_SHARE}.items():
        if key != "piece_characters":
            assert corpus[key] == value, key
    assert set(corpus) > set(Reading.model_fields) - {"piece_characters"}


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


class Said(RunObserver):
    """Keeps what was said of tokenizer and corpora that are on disk."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def tokenizer_reused(self, _folder: Path, tokenizer: Tokenizer, _: Any) -> None:
        self.events.append(("tokenizer", tokenizer.vocab_size))

    def vocabulary_unused(self, entries: int, model_entries: int) -> None:
        self.events.append(("unused", model_entries - entries))

    def corpus_reused(self, _folder: Path, _manifest: Manifest, changed: bool) -> None:
        self.events.append(("reused", changed))

    def corpus_outdated(self, _folder: Path, reasons: list[str]) -> None:
        self.events.append(("outdated", reasons))


@pytest.fixture
def notes(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    """The tiny recipe on a folder of its own, with overrides."""
    source = tmp_path / "notes"
    source.mkdir()
    for number in range(8):
        (source / f"{number}.txt").write_text(f"note {number} " + "the llama reads on " * 9)
    mixture = f"data.mixture=[{{path: {tmp_path / 'data'}, sources: [{source}]}}]"
    return lambda *overrides: tiny_recipe(mixture, *overrides)


def made(recipe: Recipe, **options: Any) -> list[tuple[str, Any]]:
    observer = Said()
    make_missing_data(recipe, [observer], **options)
    return observer.events


def test_changed_keys_prepare_a_corpus_again(notes: Callable[..., Recipe], tmp_path: Path) -> None:
    """The shards used to win over the recipe's keys, without a word."""
    tokenizer = ("tokenizer", 300)
    assert made(notes()) == [tokenizer]
    assert made(notes()) == [tokenizer, ("reused", False)]
    half = notes("data.validation_fraction=0.5", "data.piece_characters=99")
    assert made(half, again=False) == [tokenizer, ("reused", False)]
    with pytest.raises(DataError, match=said("fraction was 0.1 and is 0.5 ... set the keys")):
        open_data(half)
    ((_, reasons),) = made(half)[1:]
    assert [reason.split()[0] for reason in reasons] == ["validation_fraction", "piece_characters"]
    inputs = open_data(half).validation[0].manifest.inputs
    assert (inputs.validation_fraction, inputs.piece_characters) == (0.5, 99)
    (tmp_path / "notes" / "new.txt").write_text("a new note")
    assert made(half) == [tokenizer, ("reused", True)]


def test_a_folder_without_validation_text_is_prepared_again(
    notes: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Such a folder was left behind by an error, which the same command then met for ever."""
    recipe = notes()
    make_missing_data(recipe)
    manifest = Manifest.load(tmp_path / "data").model_dump(mode="json")
    manifest["splits"]["validation"] = {"documents": 0, "tokens": 0, "bytes": 0, "shards": []}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    assert made(recipe)[1] == ("outdated", ["it has no validation text"])
    assert open_data(recipe).validation[0].num_documents > 0


def test_a_validation_text_of_its_own(
    notes: Callable[..., Recipe], tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    make_missing_data(notes())
    (tmp_path / "held-out.txt").write_text("text that is held out")
    own = tiny_recipe(
        f"data.mixture=[{{path: {tmp_path / 'data'}, sources: [{tmp_path / 'notes'}],"
        f" validation_sources: [{tmp_path / 'held-out.txt'}]}}]"
    )
    ((_, reasons),) = made(own)[1:]
    assert "held-out.txt" in reasons[0]
    data = open_data(own)
    ids, _ = data.validation_documents()
    assert data.tokenizer.decode(ids[1:-1].tolist()) == "text that is held out"
    assert open_split(tmp_path / "data", "train").num_documents == 8
    assert made(own)[1:] == [("reused", False)]


def test_what_was_found_is_in_the_recipe_of_the_run(
    tiny_recipe: Callable[..., Recipe], tiny_corpus: Path
) -> None:
    """A tokenizer that is there wins over the recipe's keys, and so do shards made by hand."""
    own = tiny_corpus.parent / "data"
    recipe = tiny_recipe(
        f"data.mixture=[{{path: {own}}}]",
        "tokenizer.vocab_size=400",
        "tokenizer.digits=two",
        "data.validation_fraction=0.3",
    )
    assert made(recipe) == [("tokenizer", 300), ("unused", 100), ("reused", False)]
    found = open_data(recipe).recipe
    assert (found.tokenizer.vocab_size, found.tokenizer.digits) == (300, "one")
    assert found.data.validation_fraction == 0.1
    assert found.model.vocab_size == 400
