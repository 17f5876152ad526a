"""`puna data prepare RECIPE` and `puna data report` as a user meets them."""

from pathlib import Path

import pytest
import yaml
from small_corpora import PROSE, MakeRecipe, numbered_texts
from typer.testing import CliRunner

from puna.cli import data
from puna.errors import ConfigError, DataError
from puna.report.corpus_report import write_corpus_report


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(
        data.app, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    """Texts of which one is a copy, one too short, and one that would be markup."""
    texts = [*numbered_texts(9), numbered_texts(1)[0], "short", "<script>alert(1)</script> brief"]
    stages = {"gopher": {"min_words": 10, "min_stop_words": 0}, "exact_duplicates": {}}
    values = make_recipe({"web": texts}, stages).model_dump(mode="json", exclude_defaults=True)
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_corpus_and_its_page(recipe: Path, tmp_path: Path) -> None:
    printed = run("prepare", recipe, "--workers", 1)
    assert "preparing 100%  finish 100% of" in printed
    assert "exact_duplicates" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "gopher: fewer than 10 words, 2 documents" in page
    assert "exact_duplicates: a text that was there before, 1 documents" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    (tmp_path / "out" / "report.html").unlink()
    assert "report.html" in run("report", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text() == page


def test_equal_corpora_give_equal_pages(recipe: Path, tmp_path: Path) -> None:
    run("prepare", recipe, "--workers", 1)
    first = (tmp_path / "out" / "report.html").read_bytes()
    run("prepare", recipe, "--workers", 1)  # complete already
    assert (tmp_path / "out" / "report.html").read_bytes() == first


def test_sources_still_need_a_tokenizer_and_a_folder(tmp_path: Path) -> None:
    printed = run("prepare", tmp_path, code=2)
    assert "--tokenizer DIR and --out DIR are needed" in " ".join(printed.split())


def test_an_option_that_would_be_ignored_is_rejected(recipe: Path, tmp_path: Path) -> None:
    printed = " ".join(run("prepare", recipe, "--max-bytes", 10, "--strict", code=2).split())
    assert "--max-bytes, --strict cannot go with the recipe" in printed
    sources = ["prepare", tmp_path, "--tokenizer", tmp_path, "--out", tmp_path / "x"]
    printed = " ".join(run(*sources, "--ray", "local", code=2).split())
    assert "--ray local needs the recipe of a corpus" in printed


def test_a_misspelt_stage_names_the_nearest(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("gopher:", "gofer:"))
    with pytest.raises(ConfigError, match=r"unknown key stages.gofer \(did you mean stages.gopher"):
        run("prepare", recipe)


def test_a_folder_that_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no finished corpus"):
        write_corpus_report(tmp_path)


def test_sources_of_one_name_are_rejected(recipe: Path) -> None:
    values = yaml.safe_load(recipe.read_text())
    values["sources"] *= 2
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="the sources are called web, web"):
        run("prepare", recipe)


def test_prose_passes_what_the_shipped_recipe_asks_for(make_recipe: MakeRecipe) -> None:
    from puna.corpus.corpus_recipe import load_preparation_recipe
    from puna.corpus.local_processes import local_processes
    from puna.corpus.pipeline import prepare_corpus

    shipped = load_preparation_recipe(Path(__file__).parents[2] / "recipes" / "corpus.yaml")
    made = make_recipe({"web": ["\n\n".join(PROSE), *numbered_texts(5)]}, {})
    summary = prepare_corpus(made.model_copy(update={"stages": shipped.stages}), local_processes(1))
    assert summary.stages["tokenize"].documents_out >= 1
