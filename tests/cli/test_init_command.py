"""`puna init`: a recipe for text of one's own that trains as it is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.cli.init import recipe_text
from puna.training.recipe import Recipe, read_recipe
from puna.training.run_inputs import RunInputs

Puna = Callable[..., Any]
RECIPES = Path(__file__).parents[2] / "recipes"
FEW = ("train.steps=4", "train.batch_size=2", "train.device=cpu", "optimizer.warmup_ratio=0")


def test_the_recipe_that_is_shipped_is_what_init_writes() -> None:
    path = Path("recipes", "own-text.yaml")
    shipped = (RECIPES.parent / path).read_text()
    assert shipped == recipe_text(path, "my-notes/", None, 10**6)


def test_the_recipes_that_are_shipped_share_no_folder() -> None:
    """A copy of one that names other sources used to meet the other's tokenizer and shards."""
    recipes = [read_recipe(RECIPES / f"{name}.yaml", []) for name in ("tiny", "own-text")]
    folders = [
        path
        for recipe in recipes
        for path in (recipe.tokenizer.path, *(corpus.path for corpus in recipe.data.mixture))
    ]
    assert len(set(folders)) == len(folders)


def test_from_notes_to_a_model(
    puna: Puna, tiny_inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the pages: write the recipe, train it, and train it again with a changed key."""
    monkeypatch.chdir(tmp_path)
    note = Path("my notes", "note.txt")
    note.parent.mkdir()
    note.write_text("the llama reads old pages, and the pages are old\n" * 22)
    result = puna("init", "notes", "--text", "my notes")
    assert (result.code, result.err) == (0, "")
    assert "notes.yaml" in result.out
    first = puna("train", "notes.yaml", *FEW, "train.context_length=8")
    assert first.code == 0, first.err
    assert "held out for validation: " in first.out
    assert json.loads(Path("runs/notes/summary.json").read_text())["val_bytes"] > 0
    second = puna(
        "train",
        "notes.yaml",
        *FEW,
        "train.context_length=8",
        "run=runs/more",
        "data.validation_fraction=0.2",
    )
    assert second.code == 0, second.err
    assert "tokenizer: " in second.out
    assert "reused from data/notes/tokenizer" in second.out
    assert "data/notes/text is prepared again: validation_fraction was 0.05" in second.out
    values = puna("init", "notes", "--text", "my notes")
    assert (values.code, values.err) == (
        1,
        "error: notes.yaml is there already and is not overwritten: choose another name\n",
    )


def recipe_of(size: int, tmp_path: Path, validation: str | None = None) -> Recipe:
    path = tmp_path / "my.yaml"
    path.write_text(recipe_text(path, 'a "quoted" folder', validation, size))
    return read_recipe(path, [])


@pytest.mark.parametrize(
    ("size", "vocabulary", "context"),
    [(100, 276, 8), (1_000, 389, 16), (4_096, 776, 128), (8_192, 1_288, 256), (10**9, 2048, 256)],
)
def test_sizes_fit_the_text(size: int, vocabulary: int, context: int, tmp_path: Path) -> None:
    recipe = recipe_of(size, tmp_path)
    assert (recipe.tokenizer.vocab_size, recipe.context_length) == (vocabulary, context)
    assert recipe.data.mixture[0].sources == ('a "quoted" folder',)
    assert recipe.data.mixture[0].validation_sources == ()


def test_a_validation_text_is_named(tmp_path: Path) -> None:
    corpus = recipe_of(1_000, tmp_path, "diary: 2024.txt").data.mixture[0]
    assert corpus.validation_sources == ("diary: 2024.txt",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a/b", "notes", "'a/b' ... letters"),
        ("a", "gone", "gone ... spelling"),
        ("a", ".", "data/a ... inside . ... outside the text"),
    ],
)
def test_what_cannot_become_a_recipe_writes_none(
    name: str, text: str, message: str, puna: Puna, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes", "a.txt").write_text("text")
    result = puna("init", name, "--text", text)
    assert result.code == 1
    assert re.search(said(message), result.err)
    assert not list(tmp_path.glob("*.yaml"))
