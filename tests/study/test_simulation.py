"""The power of a study before its runs: effects laid exactly, rates against exact power, the spread
of pilots, what is left out and rejected.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_study import make_study
from numpy.typing import NDArray
from said import said
from scipy import stats

from puna.errors import ConfigError
from puna.statistics.contrasts import Contrast, Term
from puna.statistics.paired import detectable_effect
from puna.statistics.power import simulate_power
from puna.statistics.two_way import analyse_two_way
from puna.study.definition import Study, read_study
from puna.study.simulation import (
    contrast_effect,
    effects_of,
    not_simulated,
    pilot_spread,
    smallest_effect,
    stated_spread,
    study_design,
)

REPETITIONS = 2000
GATE = {"gate": {"terms": {"reglu|geglu": 1, "relu|gelu": -1}}}
INTERACTION = {
    "interaction": {"terms": {"geglu": 1, "gelu": -1, "reglu": -1, "relu": 1}, "primary": True}
}


def a_study(**changes: Any) -> Study:
    return Study.model_validate(
        {
            "question": "Which?",
            "base": "recipe.yaml",
            "baseline": "relu",
            "arms": {arm: [] for arm in ("relu", "gelu", "reglu", "geglu")},
            "seeds": [0, 1, 2, 3, 4],
            "contrasts": GATE | INTERACTION,
            **changes,
        }
    )


def exact_power(effect: float, deviation: float, seeds: int, alpha: float = 0.05) -> float:
    """Of the two-sided t test, by the noncentral t."""
    critical = stats.t.ppf(1 - alpha / 2, seeds - 1)
    noncentrality = effect * math.sqrt(seeds) / deviation
    upper = stats.nct.sf(critical, seeds - 1, noncentrality)
    return float(upper + stats.nct.cdf(-critical, seeds - 1, noncentrality))


def assert_binomial(count: int, rate: float) -> None:
    low, high = stats.binom.interval(0.999, REPETITIONS, rate)
    assert low <= count <= high, f"{count}, {low} to {high} expected"


# effects


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=8),
    st.lists(st.floats(0.1, 3), min_size=4, max_size=4),
    st.sampled_from(["mean", "best"]),
    st.floats(-2, 2),
    st.booleans(),
)
def test_a_contrast_of_the_true_means_equals_the_effect(
    term_of: list[int], sizes: list[float], pick: Any, effect: float, lower: bool
) -> None:
    """Terms of any number of arms, none in two of them, and one more that balances the weights."""
    groups: dict[int, list[str]] = {}
    for number, term in enumerate(term_of):
        groups.setdefault(term, []).append(f"arm {number}")
    terms = [Term(sizes[term], tuple(arms), pick) for term, arms in groups.items()]
    rest = Term(-math.fsum(term.weight for term in terms), ("rest", "more"), pick)
    contrast = Contrast("any", (*terms, rest))
    means = contrast_effect(contrast).means(effect)
    runs = {arm: np.array([mean]) for arm, mean in means.items()}
    assert contrast.evaluate(runs, lower_is_better=lower)[0] == pytest.approx(effect, abs=1e-12)


def test_terms_that_share_arms_move_along_their_net_weights() -> None:
    """a, b, c against a: the net weights are -2/3, 1/3 and 1/3, with squares of 2/3."""
    contrast = Contrast("rest", (Term(1, ("a", "b", "c")), Term(-1, ("a",))))
    means = contrast_effect(contrast).means(0.2)
    assert means == pytest.approx({"a": -0.2, "b": 0.1, "c": 0.1})


# rates


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("name", ["gate", "interaction"])
def test_power_is_that_of_the_noncentral_t(name: str, seeds: int) -> None:
    """Both have a deviation s sqrt((1 - r) sum of a^2), and are alone in their families."""
    study = a_study()
    covariance = stated_spread(study, 0.02, 0.6).covariance
    design = study_design(study, seeds)
    deviation = 0.02 * math.sqrt(0.4 * {"gate": 1.0, "interaction": 4.0}[name])
    effects = {effect.name: effect for effect in effects_of(design)}
    for size in (0.0, 1.0 * deviation, -2.0 * deviation):
        power = simulate_power(design, covariance, effects[name].means(size), REPETITIONS, 3)
        assert_binomial(effects[name].share(power).count, exact_power(abs(size), deviation, seeds))
        # the two have nothing in common, so that the other one stays a null
        (other,) = effects.keys() - {name}
        assert_binomial(effects[other].share(power).count, 0.05)


def test_the_smallest_effect_is_the_detectable_one() -> None:
    study = a_study()
    covariance = stated_spread(study, 0.02, 0.6).covariance
    design = study_design(study, 5)
    for effect, squares in zip(effects_of(design), (4.0, 1.0), strict=True):
        expected = 0.02 * math.sqrt(0.4 * squares) * detectable_effect(5, 0.05)
        found = smallest_effect(design, covariance, effect, REPETITIONS, 0)
        assert found == pytest.approx(expected, rel=0.05)


def test_a_study_without_contrasts_is_asked_of_its_arms() -> None:
    """Three arms against one: the first of Holm's levels is alpha / 3."""
    study = a_study(contrasts={})
    design = study_design(study, 8)
    effects = effects_of(design)
    assert [effect.name for effect in effects] == ["gelu", "reglu", "geglu"]
    assert effects[1].means(0.3) == {"reglu": 0.3}
    covariance = stated_spread(study, 1.0, 0.5).covariance
    found = smallest_effect(design, covariance, effects[1], REPETITIONS, 0)
    assert found == pytest.approx(detectable_effect(8, 0.05 / 3), rel=0.05)


def test_the_best_of_more_arms_is_called_better_without_an_effect() -> None:
    """A simulation shows the bias of such a design: nearly always, where many seeds see it."""
    unequal = {"best": {"terms": {"relu|gelu|reglu": 1, "geglu": -1}, "pick": "best"}}
    study = a_study(contrasts=unequal)
    design, covariance = study_design(study, 40), stated_spread(study, 1.0, 0.0).covariance
    (effect,) = effects_of(design)
    share = effect.share(simulate_power(design, covariance, {}, REPETITIONS))
    assert share.count > 0.9 * REPETITIONS
    assert smallest_effect(design, covariance, effect, REPETITIONS, 0) == 0


# what is left out


def test_the_primary_contrast_is_first_and_the_rule_is_the_studys() -> None:
    study = a_study(rule={"alpha": 0.01, "smallest_difference": 0.002})
    design = study_design(study, 4)
    assert [effect.name for effect in effects_of(design)] == ["interaction", "gate"]
    assert (design.primary, design.seeds, design.rule) == (
        "interaction",
        4,
        study.rule_for("bits_per_byte"),
    )
    assert not_simulated(study) == {}


def test_what_a_simulation_cannot_answer_is_named() -> None:
    study = a_study(
        also=["loss"],
        outcomes={"failed": {"metric": "loss", "above": 3.0}},
        rule={"equivalence_margin": 0.1},
        contrasts={
            "own": {"terms": {"gelu": 1, "relu": -1}, "of": "bits_per_byte"},
            "loss of it": {"terms": {"gelu": 1, "relu": -1}, "of": "loss"},
            "failures": {"terms": {"gelu": 1, "relu": -1}, "of": "failed", "primary": True},
            "nothing": {"terms": {"gelu|relu": 1, "relu|gelu": -1}},
            "overlap": {"terms": {"*": 1, "relu": -1}, "pick": "best"},
        },
    )
    left_out = not_simulated(study)
    assert list(left_out) == [
        "loss of it",
        "failures",
        "nothing",
        "overlap",
        "equivalence",
    ]
    assert "failed" in left_out["failures"]
    assert "share arms" in left_out["overlap"]
    design = study_design(study, 4)
    assert [contrast.name for contrast in design.contrasts] == ["own"]
    assert design.primary is None


# pilots


def a_pilot(folder: Path, table: NDArray[np.float64], arms: list[str], **keys: Any) -> Path:
    """A study with the runs of a table [arms, seeds]."""
    return make_study(
        folder,
        arms,
        truth=lambda arm, seed: float(table[arm, seed]),
        seeds=list(range(table.shape[1])),
        **keys,
    )


def spread_in(folder: Path, study: Study) -> Any:
    return pilot_spread(study, folder, read_study(folder))


def test_arms_of_the_same_names_give_their_covariance(tmp_path: Path) -> None:
    """In the study's order, whatever the pilot's; an arm that the study lacks is left out."""
    table = np.random.default_rng(0).normal(size=(3, 6)).round(5)
    folder = a_pilot(tmp_path, table, ["gelu", "other", "relu"])
    found = spread_in(folder, a_study(arms={"relu": [], "gelu": []}, contrasts={}))
    assert found.covariance == pytest.approx(np.cov(table[[2, 0]]))
    assert "6 seeds" in found.origin
    assert str(folder / "results.jsonl") in found.origin


@pytest.mark.parametrize("mirrored", [False, True])
def test_other_arms_or_few_seeds_give_the_residual_spread_of_arm_and_seed(
    mirrored: bool, tmp_path: Path
) -> None:
    """That of the additive model; mirrored arms, with a negative covariance, keep it as well."""
    table = np.random.default_rng(1).normal(size=(4, 3)).round(5)
    if mirrored:
        table[1], table[3] = -table[0], -table[2]
    arms = ["relu", "gelu", "reglu", "geglu"]
    folder = a_pilot(tmp_path, table, arms)
    covariance = spread_in(folder, a_study()).covariance
    runs = {arm: dict(enumerate(row)) for arm, row in zip(arms, table.tolist(), strict=True)}
    residual = analyse_two_way(runs, "relu", 0.05).residual_standard_deviation
    assert residual is not None
    off_diagonal = covariance[0, 1]
    assert covariance[0, 0] - off_diagonal == pytest.approx(residual**2)
    assert off_diagonal >= 0
    assert (off_diagonal == 0) == mirrored
    if not mirrored:
        assert np.trace(covariance) / 4 == pytest.approx(table.var(axis=1, ddof=1).mean())


def test_an_arm_with_a_diverged_run_does_not_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    table = (rng.normal(size=(3, 4)) + 3 * rng.normal(size=4)).round(5)
    folder = a_pilot(tmp_path, table, ["a", "b", "c"], diverged={"b": [1]})
    found = spread_in(folder, a_study())
    assert "2 arms" in found.origin
    covariance = np.cov(table[[0, 2]])
    assert found.covariance[0, 0] == pytest.approx(np.trace(covariance) / 2)
    assert found.covariance[0, 1] == pytest.approx(covariance[0, 1])


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_last_stage_with_two_seeds_counts_and_only_seeds_that_all_arms_have(
    tmp_path: Path,
) -> None:
    table = np.random.default_rng(3).normal(size=(2, 5)).round(5)
    folder = a_pilot(tmp_path, table, ["a", "b"], stages={"early": [], "late": []})
    lines = lines_of(folder)
    late = [{**line, "stage": "late", "bits_per_byte": 1.0} for line in lines if line["seed"] == 0]
    early = [{**line, "stage": "early"} for line in lines]
    # the arm b is not through with its seeds
    write_lines(folder / "results.jsonl", [*early[:-1], *late])
    study = a_study(arms={"relu": [], "b": []}, contrasts={})
    found = spread_in(folder, study)
    assert "4 seeds" in found.origin
    assert "stage early" in found.origin
    late = [{**line, "stage": "late"} for line in lines if line["seed"] < 3]
    write_lines(folder / "results.jsonl", [*early[:-1], *late])
    found = spread_in(folder, study)
    assert "3 seeds" in found.origin
    assert "stage late" in found.origin


def test_tuning_runs_serve_where_there_are_no_others(tmp_path: Path) -> None:
    """The tuned point of every arm, and no other."""
    table = np.random.default_rng(4).normal(size=(2, 3)).round(5)
    tune = {"grid": {"optimizer.learning_rate": [0.001, 0.002]}, "seeds": [7, 8, 9]}
    folder = a_pilot(tmp_path, table, ["relu", "gelu"], tune=tune)
    points = [["optimizer.learning_rate=0.001"], ["optimizer.learning_rate=0.002"]]
    tuning = [
        {**line, "seed": line["seed"] + 7, "point": point, "bits_per_byte": value}
        for line in lines_of(folder)
        for point, value in zip(points, (line["bits_per_byte"], 9.0), strict=True)
    ]
    (folder / "results.jsonl").unlink()
    write_lines(folder / "tuning.jsonl", tuning)
    study = a_study(arms={"relu": [], "gelu": []}, contrasts={})
    found = spread_in(folder, study)
    assert found.covariance == pytest.approx(np.cov(table))
    assert "tuning.jsonl" in found.origin


# bad input


def test_pilots_that_say_nothing_are_rejected(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    folder = a_pilot(tmp_path, rng.normal(size=(2, 3)), ["a", "b"])
    lines = lines_of(folder)

    def rejected(kept: list[dict[str, Any]], message: str, **changes: Any) -> None:
        write_lines(folder / "results.jsonl", kept)
        with pytest.raises(ConfigError, match=said(message)):
            spread_in(folder, a_study(**changes))

    remedy = "--pilot ... --spread and --correlation"
    rejected([], f"{folder} has no finished runs ... {remedy}")
    one_seed = [line for line in lines if line["seed"] == 0]
    rejected(one_seed, f"fewer than 2 seeds in {folder / 'results.jsonl'} ... {remedy}")
    rejected(lines, f"no bits_per_byte_2x ... metric ... {remedy}", metric="bits_per_byte_2x")
    same = [{**line, "bits_per_byte": 1.0} for line in lines]
    rejected(same, "do not vary ... another pilot ... --spread")
    failed = [{**line, "bits_per_byte": None} if line["arm"] == "a" else line for line in lines]
    rejected(failed, "1 of 2 arms ... another pilot ... --spread")


@pytest.mark.parametrize(("spread", "correlation"), [(0.0, 0.5), (0.01, 1.0)])
def test_a_stated_spread_without_noise_is_rejected(spread: float, correlation: float) -> None:
    with pytest.raises(
        ConfigError, match=said(f"{spread:g} ... {correlation:g} ... above 0 ... below 1")
    ):
        stated_spread(a_study(), spread, correlation)
