"""Metrics that need text of a certain kind: they ask in its form, or say that it is not there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from said import said

from puna.cli.study import open_inputs
from puna.data import recall
from puna.data.additions import Additions
from puna.errors import ConfigError
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.study import run_metrics
from puna.study.definition import Study
from puna.study.run_metrics import METRICS, MeasuredModel, StudyText
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe
from puna.workflow.missing_data import make_missing_data

Question = tuple[str, str]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Every question that a metric asks."""
    found: list[Question] = []

    def ask(model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> float:
        found.extend(questions)
        return 0.5

    monkeypatch.setattr(run_metrics, "exact_match", ask)
    return found


def measured(tiny_recipe: Callable[..., Recipe], *additions: Additions) -> MeasuredModel:
    recipe = tiny_recipe()
    model = build_transformer(recipe.model)
    init_weights(model, 0)
    tokenizer = Tokenizer.load(recipe.tokenizer.path)
    ids = np.zeros(9, dtype=np.int64)
    return MeasuredModel(model, StudyText(tokenizer, ids, ids, None, additions), 32)


def test_sums_are_asked_in_the_form_of_the_training_text(
    tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, asked: list[Question]
) -> None:
    form = Additions(3, reversed=True)
    run = measured(tiny_recipe, form)
    assert METRICS["addition_exact_match"].measure(run) == 0.5
    assert asked == form.questions()


@pytest.mark.parametrize(
    ("forms", "rule"),
    [
        ((), "data.mixture holds none ... additions:4:reversed"),
        ((Additions(), Additions(4)), "holds additions and additions:4 ... one source of sums"),
    ],
)
def test_sums_in_no_form_or_in_two_are_an_error(
    forms: tuple[Additions, ...], rule: str, tiny_recipe: Callable[..., Recipe], tiny_corpus: Path
) -> None:
    with pytest.raises(ConfigError, match=said(rule)):
        METRICS["addition_exact_match"].measure(measured(tiny_recipe, *forms))


def test_a_studys_text_knows_the_sums_of_the_mixture(
    tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, tmp_path: Path
) -> None:
    own = tiny_corpus.parent / "data"
    sums = f"{{path: {tmp_path / 'sums'}, sources: [additions:2:reversed]}}"
    recipe = tiny_recipe(f"data.mixture=[{{path: {own}}}, {sums}]")
    make_missing_data(recipe)
    study = Study(question="?", base="", baseline="a", arms={"a": (), "b": ()}, seeds=(0, 1))
    _, text = open_inputs(recipe, study)
    assert text.additions == (Additions(2, reversed=True),)
    assert open_inputs(tiny_recipe(), study)[1].additions == ()


@pytest.mark.parametrize("distance", recall.DISTANCES)
def test_values_are_recalled_over_the_distance_of_the_name(
    distance: int, tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, asked: list[Question]
) -> None:
    metric = METRICS[f"recall_{distance}"]
    assert not metric.lower_is_better
    assert metric.measure(measured(tiny_recipe)) == 0.5
    assert asked == recall.questions(distance)
