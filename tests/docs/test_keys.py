"""Keys of recipes, studies and options that the pages name, and the tables of them: each key
exists, each table is whole and has the defaults of the code, and what is committed as YAML
validates.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pages import ADDED_KEYS, DOCS, FILE_ENDINGS, PAGES, ROOT, named, read_page
from pydantic_core import PydanticUndefined

from puna.config import Config, dotted_keys, overlay, read_yaml, validate
from puna.corpus.corpus_recipe import (
    CorpusSource,
    PreparationRecipe,
    Stages,
    load_preparation_recipe,
)
from puna.corpus.filter_task import DOCUMENT_STAGES
from puna.corpus.near_duplicates import NearDuplicateOptions
from puna.errors import ConfigError
from puna.inference.engine_config import EngineConfig
from puna.inference.request import GenerationOptions
from puna.model.presets import PRESETS
from puna.study.arms import resolve_arms
from puna.study.definition import Study, read_study
from puna.study.run_metrics import METRICS
from puna.training.recipe import Recipe, read_recipe

CORPUS = ROOT / "recipes" / "corpus.yaml"
RECIPES = sorted(
    {*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "studies").rglob("recipe.yaml")} - {CORPUS}
)
SECTIONS = frozenset(key for key in dotted_keys(Recipe) if "." not in key)


def is_recipe_key(key: str) -> bool:
    return key in ADDED_KEYS or key in dotted_keys(Recipe)


def written_keys(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of nested mappings; entries of a list stand under the list's own key."""
    if isinstance(values, list):
        for value in values:
            yield from written_keys(value, prefix)
    if isinstance(values, dict):
        for key, value in values.items():
            dotted = f"{prefix}.{key}" if prefix else key
            yield dotted
            yield from written_keys(value, dotted)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_recipe_keys_exist(path: Path, tmp_path: Path) -> None:
    """In prose `section.key` or `section.key=value`; in YAML blocks every key, and whole recipes
    and studies validate.
    """
    wrong = []
    for code in read_page(path).codes:
        key = code.partition("=")[0]
        section, dot, _ = key.partition(".")
        if (
            dot
            and section in SECTIONS
            and re.fullmatch(r"[a-z_.]+", key)
            and not re.search(FILE_ENDINGS, key)
            and not is_recipe_key(key)
        ):
            wrong.append(key)
    for block in read_page(path).blocks("yaml"):
        file = tmp_path / "shown.yaml"
        file.write_text(block, encoding="utf-8")
        values = yaml.safe_load(block)
        values.pop("extends", None)
        if "question" in values:
            validate(Study, values, origin=named(path))
            continue
        if "stages" in values:
            validate(PreparationRecipe, values, origin=named(path))
            continue
        wrong += [key for key in written_keys(values) if not is_recipe_key(key)]
        if {"tokenizer", "data", "model", "train"} <= set(values):
            # read as a recipe file is, 1e-3 included
            validate(Recipe, read_yaml(file), origin=f"{named(path)} as {file.name}")
    assert not wrong, f"{named(path)} names keys that no recipe has: {', '.join(wrong)}"


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_recipes_validate_and_open_with_their_command(recipe: Path) -> None:
    read_recipe(recipe, [])
    first = recipe.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# puna train {named(recipe)}"), (
        f"{named(recipe)} does not open with the command that runs it"
    )


def test_the_corpus_recipe_validates_and_opens_with_its_command() -> None:
    load_preparation_recipe(CORPUS)
    assert CORPUS.read_text(encoding="utf-8").startswith(f"# puna data prepare {named(CORPUS)}\n")


def test_the_table_of_stages_is_whole() -> None:
    """docs/corpora.md has a row for each stage, in the order in which they run."""
    rows = list(read_page(DOCS / "corpora.md").by_code("stage", "does"))
    assert rows == list(Stages.model_fields)
    assert rows[: len(DOCUMENT_STAGES)] == [name for name, _ in DOCUMENT_STAGES]


def test_the_table_of_formats_is_whole() -> None:
    rows = read_page(DOCS / "corpora.md").by_code("format", "is")
    assert set(rows) == set(get_args(CorpusSource.model_fields["format"].annotation))


def test_the_table_of_the_curve_is_the_curve() -> None:
    """docs/corpora.md: the probability that a pair of near-duplicates shares a band."""
    page = read_page(DOCS / "corpora.md").text
    rows = re.findall(r"^\| (\d+) x (\d+).*?\|(.*)\|$", page, re.MULTILINE)
    assert len(rows) == 3
    for bands, minima, cells in rows:
        options = NearDuplicateOptions(bands=int(bands), rows=int(minima))
        for similarity, cell in zip(
            (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9), cells.split("|"), strict=True
        ):
            assert cell.strip() == f"{options.match_probability(similarity):.3f}"


def field_of(cls: type[Config], dotted: str) -> Any:
    """The pydantic field behind a dotted key."""
    name, dot, rest = dotted.partition(".")
    field = cls.model_fields[name]
    if not dot:
        return field
    inner = next(
        part
        for part in (field.annotation, *get_args(field.annotation))
        if isinstance(part, type) and issubclass(part, Config)
    )
    return field_of(inner, rest)


SMALLEST: dict[str, Any] = {
    "run": "runs/smallest",
    "tokenizer": {"path": "t"},
    "data": {"mixture": [{"path": "d"}]},
    "model": {"width": 64, "num_layers": 1, "num_heads": 2},
    "train": {"steps": 1000},
}


def is_enough(values: dict[str, Any]) -> bool:
    try:
        validate(Recipe, values, origin="the smallest recipe")
    except ConfigError:
        return False
    return True


def without(values: dict[str, Any], dotted: str) -> dict[str, Any]:
    name, dot, rest = dotted.partition(".")
    if not dot:
        return {key: value for key, value in values.items() if key != name}
    inner = values[name]
    if isinstance(inner, list):
        return values | {name: [without(value, rest) for value in inner]}
    return values | {name: without(inner, rest)}


def test_the_tables_of_recipe_keys_are_whole() -> None:
    """docs/recipes.md has a row for each key, with its default, in the order of the fields."""
    printed = read_page(DOCS / "recipes.md").by_code("key", "default")
    expected = dotted_keys(Recipe)
    assert set(printed) == set(expected), (
        f"missing {set(expected) - set(printed)}, unknown {set(printed) - set(expected)}"
    )
    for key, cell in printed.items():
        default = field_of(Recipe, key).default
        if default is PydanticUndefined:
            state = (
                "required"
                if key in written_keys(SMALLEST) and not is_enough(without(SMALLEST, key))
                else "derived"
            )
            assert cell == state, f"docs/recipes.md calls {key} {cell}, but it is {state}"
        else:
            assert_same_default(key, cell, default)


def test_the_table_of_generation_options_is_whole() -> None:
    printed = read_page(DOCS / "python.md").by_code("option", "default")
    assert set(printed) == set(GenerationOptions.model_fields)
    for key, cell in printed.items():
        assert_same_default(
            key, cell, GenerationOptions.model_fields[key].get_default(call_default_factory=True)
        )


def test_the_table_of_engine_options_is_whole() -> None:
    """In the order of the fields."""
    printed = read_page(DOCS / "python.md").by_code("engine option", "default")
    assert list(printed) == list(EngineConfig.model_fields)
    for key, cell in printed.items():
        assert_same_default(key, cell, EngineConfig.model_fields[key].default)


def assert_same_default(key: str, cell: str, default: Any) -> None:
    if default is None:
        assert cell == "left out", f"{key} has no default, but its row says {cell}"
    elif isinstance(default, Config):
        assert cell == "all defaults"
    else:
        value: Any = yaml.safe_load(cell)
        if isinstance(default, float):
            value = float(value)
        assert value == (list(default) if isinstance(default, tuple) else default), (
            f"{key} is {default!r}, but its row says {cell}"
        )


def test_the_smallest_recipe_is_enough() -> None:
    assert is_enough(SMALLEST)
    assert is_enough(
        overlay(
            without(
                without(without(SMALLEST, "model.width"), "model.num_layers"), "model.num_heads"
            ),
            {"model": {"preset": "puna-1m"}},
        )
    )


def test_every_preset_is_listed() -> None:
    assert PRESETS.keys() <= set(read_page(DOCS / "recipes.md").codes)


def test_the_table_of_study_keys_is_whole() -> None:
    assert list(read_page(DOCS / "studies.md").by_code("key", "default")) == dotted_keys(Study)


def test_the_table_of_metrics_is_whole() -> None:
    assert read_page(DOCS / "studies.md").by_code("metric", "unit") == {
        name: metric.unit for name, metric in METRICS.items()
    }


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("study.yaml")), ids=named)
def test_studies_validate_and_open_with_their_command(path: Path) -> None:
    resolve_arms(read_study(path.parent), path.parent)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(rf"# puna study run {re.escape(named(path.parent))}( --jobs \d+)?", first)
