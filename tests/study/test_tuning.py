"""Tuning: the point of the grid that each arm gets, and a study that tunes for real."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from said import said
from small_study import Here, write_study

from puna.cli.study import open_inputs
from puna.errors import ConfigError
from puna.study.arms import resolve_arms
from puna.study.definition import Study, read_study
from puna.study.job import Job, arm_hash
from puna.study.results import append_record, read_records, read_results
from puna.study.runner import run_study
from puna.study.tuning import FILE, further_overrides, tuned_arms
from puna.training.run_inputs import RunInputs

SLOW, FAST = ("optimizer.learning_rate=0.001",), ("optimizer.learning_rate=0.002",)


def tuned(**changes: Any) -> Study:
    """Two arms, each tuned over two rates on two seeds."""
    tune = {"grid": {"optimizer.learning_rate": [1e-3, 2e-3]}, "seeds": [8, 9]}
    return Study.model_validate(
        {
            "question": "?",
            "base": "base.yaml",
            "baseline": "a",
            "arms": {"a": [], "b": ["model.norm=none"]},
            "tune": tune | changes.pop("tune", {}),
            "seeds": [0, 1],
            **changes,
        }
    )


def record(
    folder: Path,
    study: Study,
    values: Mapping[tuple[str, tuple[str, ...]], Sequence[float | None]],
) -> None:
    """The values of the study's metric, by arm and point, one a seed."""
    assert study.tune is not None
    for (arm, point), of_seeds in values.items():
        for seed, value in zip(study.tune.seeds, of_seeds, strict=True):
            line = {"arm": arm, "seed": seed, "point": list(point), study.metric: value}
            append_record(folder / FILE, line)


def test_each_arm_gets_the_point_with_the_best_mean_over_the_seeds(tmp_path: Path) -> None:
    """One lucky seed decides nothing."""
    study = tuned()
    values = {("a", SLOW): [2.0, 2.4], ("a", FAST): [1.9, 2.6]}
    values |= {("b", SLOW): [2.5, 2.5], ("b", FAST): [2.4, 2.5]}
    record(tmp_path, study, values)
    arms = tuned_arms(study, tmp_path)
    assert arms is not None
    assert {arm: tuned.point for arm, tuned in arms.items()} == {"a": SLOW, "b": FAST}
    assert arms["a"].means == pytest.approx({SLOW: 2.2, FAST: 2.25})


@pytest.mark.parametrize(
    ("slow", "fast", "best"),
    [
        ([2.0, 2.2], [2.2, 2.0], SLOW),
        ([2.0, None], [3.0, 3.0], FAST),
        ([None, None], [None, 1.0], SLOW),
    ],
    ids=["the first of equals", "a diverged run loses", "the first where all diverged"],
)
def test_ties_and_diverged_runs(
    slow: list[float | None], fast: list[float | None], best: tuple[str, ...], tmp_path: Path
) -> None:
    study = tuned()
    record(tmp_path, study, {(arm, SLOW): slow for arm in "ab"})
    record(tmp_path, study, {(arm, FAST): fast for arm in "ab"})
    arms = tuned_arms(study, tmp_path)
    assert arms is not None
    assert arms["a"].point == arms["b"].point == best
    if None in slow:
        assert math.isinf(arms["a"].means[SLOW])


def test_where_more_is_better_the_largest_mean_wins(tmp_path: Path) -> None:
    study = tuned(metric="addition_exact_match")
    record(tmp_path, study, {(arm, SLOW): [0.1, 0.2] for arm in "ab"})
    record(tmp_path, study, {(arm, FAST): [0.6, 0.2] for arm in "ab"})
    arms = tuned_arms(study, tmp_path)
    assert arms is not None
    assert arms["a"].point == FAST


def test_an_incomplete_grid_chooses_nothing_and_the_remedy_is_said(tmp_path: Path) -> None:
    study = tuned()
    assert tuned_arms(study, tmp_path) is None
    record(tmp_path, study, {(arm, SLOW): [2.0, 2.0] for arm in "ab"})
    record(tmp_path, study, {("a", FAST): [2.0, 2.0]})
    append_record(tmp_path / FILE, {"arm": "b", "seed": 8, "point": FAST, "bits_per_byte": 1.0})
    assert tuned_arms(study, tmp_path) is None
    with pytest.raises(ConfigError, match=said("not tuned yet ... puna study run")):
        further_overrides(study, tmp_path, "")


def test_an_arm_may_have_further_keys_or_other_values_in_its_grid() -> None:
    """The product, in the order of the keys; a key of the shared grid is replaced."""
    grid = {"model.rope_base": [1000, 10000]}
    tune = tuned(tune={"arms": {"a": grid, "b": {"optimizer.learning_rate": [3e-3]}}}).tune
    assert tune is not None
    assert tune.points("a") == [
        (*rate, f"model.rope_base={base}") for rate in (SLOW, FAST) for base in (1000, 10000)
    ]
    assert tune.points("b") == [("optimizer.learning_rate=0.003",)]


def test_a_study_without_tune_adds_only_the_stage_to_its_arms(tmp_path: Path) -> None:
    study = tuned(stages={"half": ["train.steps=2"], "full": []}).model_copy(update={"tune": None})
    assert tuned_arms(study, tmp_path) == {}
    assert further_overrides(study, tmp_path, "half") == dict.fromkeys("ab", ("train.steps=2",))
    assert further_overrides(study, tmp_path, "full") == dict.fromkeys("ab", ())


def test_a_study_tunes_first_on_seeds_that_never_test_and_its_arms_carry_what_was_chosen(
    tiny_recipe_file: Path, tiny_inputs: RunInputs, constant_code_hash: None, tmp_path: Path
) -> None:
    """A rate of almost 0 learns nothing, so the other one is every arm's."""
    short = ["train.steps=3", "train.validate_every=3", "optimizer.warmup_steps=0"]
    folder = write_study(
        tmp_path / "study",
        tiny_recipe_file,
        arms={"one": short, "same": short},
        tune={
            "grid": {"optimizer.learning_rate": [1e-9, 1e-2]},
            "seeds": [9],
            "overrides": ["train.steps=2"],
        },
        seeds=[3, 4],
        also=["bits_per_byte_2x"],
        looks=[0.5],
        probes=["activation_norms"],
    )
    study = read_study(folder)
    done = [job for job, _ in run_study(study, folder, open_inputs, Here())]
    rates = [("optimizer.learning_rate=1e-09",), ("optimizer.learning_rate=0.01",)]
    assert done[:4] == [Job(arm, 9, "", rate) for arm in ("one", "same") for rate in rates]
    assert [(job.seed, job.point) for job in done[4:]] == [(3, ()), (3, ()), (4, ()), (4, ())]
    tuning, results = read_records(folder / FILE), read_results(folder)
    assert [Job.of(record) for record in tuning + results] == done

    # two steps a point, by the metric alone
    assert {record["tokens"] for record in tuning} == {2 * 4 * 32}
    for line in tuning:
        assert (line["looks"], line["probes"]["end"]) == ([], {})
        assert "bits_per_byte_2x" not in line
        assert line["rule"] == study.hash
    assert {record["tokens"] for record in results} == {3 * 4 * 32}

    arms = tuned_arms(study, folder)
    assert arms is not None
    assert {tuned.point for tuned in arms.values()} == {rates[1]}
    # the recipe of an arm that says the rate itself
    said_so = study.model_copy(
        update={"arms": dict.fromkeys(study.arms, (*short, *rates[1])), "tune": None}
    )
    expected = {arm_hash(arm.recipe) for arm in resolve_arms(said_so, folder).values()}
    assert {record["recipe_hash"] for record in results} == expected
