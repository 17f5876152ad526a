"""study.yaml: what it may say, how arms are matched, and what is rejected with which rule."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from said import said

from puna.errors import ConfigError
from puna.study.arms import MATCHED_WITHIN, resolve_arms
from puna.study.definition import Study, read_study

RELU = ["model.feed_forward=relu", "model.feed_forward_multiple=null"]
STUDY: dict[str, Any] = {
    "question": "Which?",
    "base": "base.yaml",
    "baseline": "swiglu",
    "arms": {"swiglu": [], "relu": RELU, "glu": ["model.feed_forward=glu"]},
    "matched": "parameters",
    "seeds": [0, 1],
}
TUNE: dict[str, Any] = {"grid": {"optimizer.learning_rate": [1e-3, 2e-3]}, "seeds": [7]}
BASE: dict[str, Any] = {
    "tokenizer": {"path": "t", "vocab_size": 300},
    "data": {"mixture": [{"path": "d"}]},
    "model": {
        "width": 64,
        "num_layers": 2,
        "num_heads": 2,
        "context_length": 64,
        "feed_forward_multiple": 32,
    },
    "optimizer": {"warmup_steps": 1},
    "train": {"steps": 4, "context_length": 32},
}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | changes))
    return folder


def test_arms_are_matched_by_the_feed_forward_width(tmp_path: Path) -> None:
    """SwiGLU has 3 D F: F = 192 becomes 288 in two matrices, exactly; another gated layer keeps
    it.
    """
    arms = resolve_arms(read_study(written(tmp_path)), tmp_path)
    assert [arm.recipe.model.feed_forward_width for arm in arms.values()] == [192, 288, 192]
    assert {arm.parameters for arm in arms.values()} == {arms["swiglu"].parameters}
    assert all(arm.parameter_difference == arm.flop_difference == 0 for arm in arms.values())


def test_flops_can_be_matched_instead(tmp_path: Path) -> None:
    """A sliding window of 8 saves attention, which a wider feed-forward layer spends again."""
    arms = {"swiglu": [], "window": ["model.sliding_window=8"]}
    window = resolve_arms(read_study(written(tmp_path, matched="flops", arms=arms)), tmp_path)[
        "window"
    ]
    assert window.recipe.model.feed_forward_width > 192
    assert abs(window.flop_difference) < MATCHED_WITHIN < window.parameter_difference


def test_nothing_is_matched_unless_asked_for_and_a_width_of_its_own_is_kept(tmp_path: Path) -> None:
    arms = resolve_arms(read_study(written(tmp_path, matched="nothing")), tmp_path)
    assert arms["relu"].recipe.model.feed_forward_width == 256
    own = {"swiglu": [], "own": [*RELU, "model.feed_forward_width=289"]}
    assert (
        resolve_arms(read_study(written(tmp_path, arms=own)), tmp_path)[
            "own"
        ].recipe.model.feed_forward_width
        == 289
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "gelu"}, r"the baseline 'gelu' is no arm; the arms are glu, relu, swiglu"),
        (
            {"arms": {"swiglu": []}},
            r"there is only the arm 'swiglu': a comparison takes another one",
        ),
        (
            {"seeds": [3]},
            r"seeds \[3\] must be at least 2 different ones, better 4: one run has no spread",
        ),
        ({"seeds": [1, 1]}, r"at least 2 different ones"),
        ({"metric": "accuracy"}, r"there is no metric 'accuracy'; the metrics are bits_per_byte"),
        ({"also": ["loss", "f1"]}, r"there is no metric 'f1'; the metrics are bits_per_byte"),
        (
            {"probes": ["blood_pressure"]},
            r"there is no probe 'blood_pressure'; the probes are activation_norms",
        ),
        ({"seed": [0, 1]}, r"unknown key seed \(did you mean seeds\?\)"),
        (
            {"published": [{"source": "s", "column": "c", "values": {"gelu": 1.0}}]},
            r"published figures name no arm: gelu",
        ),
        (
            {"tune": TUNE | {"seeds": [7, 1]}},
            said("seed 1 ... tuned on and tested with ... tune on others"),
        ),
        (
            {"tune": TUNE | {"arms": {"gelu": {"train.batch_size": [4, 8]}}}},
            said("tune.arms names no arm: gelu ... the arms are glu, relu, swiglu"),
        ),
        ({"tune": {"grid": {}, "seeds": [7]}}, said("tune.grid ... at least 1 item")),
        ({"tune": TUNE | {"seeds": []}}, said("tune.seeds ... at least 1 item")),
        ({"looks": [0.5, 0.25]}, said("looks [0.5, 0.25] must ascend, each share once")),
        ({"looks": [0.5, 0.5]}, said("looks [0.5, 0.5] must ascend")),
        ({"looks": [0.5, 1.0]}, said("looks.1 ... less than 1")),
        ({"looks": [0]}, said("looks.0 ... greater than 0")),
        ({"stages": {}}, said("stages ... at least 1 item")),
        (
            {"also": ["bits_per_byte_out_of_domain"]},
            said("needs text from other sources ... out_of_domain: [site-packages-docs]"),
        ),
        (
            {"outcomes": {"failed": {"metric": "accuracy", "above": 3.0}}},
            said("there is no metric 'accuracy' ... bits_per_byte"),
        ),
        (
            {"times": {"to 3": {"metric": "f1", "level": 3.0}}},
            said("there is no metric 'f1' ... bits_per_byte"),
        ),
        (
            {"contrasts": {"gate": {"terms": {"glu": 1.0, "relu": -0.5}}}},
            said("weights of the contrast gate sum to 0.5 ... not to 0"),
        ),
        (
            {"contrasts": {"gate": {"terms": {"glu": 1.0, "gelu|silu": -1.0}}}},
            said("contrast gate ... term 'gelu|silu' ... no arm ... glu, relu, swiglu"),
        ),
        (
            {"contrasts": {"gate": {"terms": {"glu": 1.0, "relu": -1.0}, "of": "failed"}}},
            said("contrast gate is of 'failed' ... no metric or outcome ... bits_per_byte, loss"),
        ),
        (
            {
                "contrasts": {
                    name: {"terms": {"glu": 1.0, "relu": -1.0}, "primary": True} for name in "ab"
                }
            },
            said("contrasts a, b are all primary: one question is"),
        ),
        ({"rule": {"equivalence_margin": 0.0}}, said("equivalence_margin ... greater than 0")),
    ],
)
def test_what_breaks_a_rule_is_rejected(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_study(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            ["model.feedforward=relu"],
            r"arm x: unknown key model.feedforward \(did you mean model.feed_forward\?\)",
        ),
        (
            ["model.num_layers=40"],
            (
                r"the parameters of the arm x are \+\d+\.\d% off the baseline's, and no"
                r" feed-forward width brings them"
            ),
        ),
        (["train.minutes=5"], r"arm x: train.minutes 5 would give .* equal lengths: leave it out"),
        (["relu"], r"'relu' is not of the form section.key=value"),
    ],
)
def test_an_arm_that_cannot_be_is_named(arm: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_arms(read_study(written(tmp_path, arms={"swiglu": [], "x": arm})), tmp_path)


def test_a_folder_without_a_definition_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no study: it has no study.yaml"):
        read_study(tmp_path)


# factors

FACTORS = {
    "gate": {"relu": RELU, "swiglu": []},
    "rate": {0.5: ["optimizer.learning_rate=5e-4"], 2: ["optimizer.learning_rate=2e-3"]},
}


def factorial(folder: Path, **changes: Any) -> Study:
    """The product of FACTORS, with no arms beside it."""
    return read_study(
        written(folder, **{"arms": {}, "factors": FACTORS, "baseline": "swiglu 2", **changes})
    )


def test_factors_make_an_arm_of_each_combination_whose_levels_may_be_numbers(
    tmp_path: Path,
) -> None:
    study = factorial(tmp_path)
    assert study.arms == {
        "relu 0.5": (*RELU, "optimizer.learning_rate=5e-4"),
        "relu 2": (*RELU, "optimizer.learning_rate=2e-3"),
        "swiglu 0.5": ("optimizer.learning_rate=5e-4",),
        "swiglu 2": ("optimizer.learning_rate=2e-3",),
    }
    rates = [arm.recipe.optimizer.learning_rate for arm in resolve_arms(study, tmp_path).values()]
    assert rates == [5e-4, 2e-3, 5e-4, 2e-3]


def test_arms_stand_beside_those_of_factors_and_a_dumped_study_reads_as_the_same(
    tmp_path: Path,
) -> None:
    study = factorial(tmp_path, arms={"glu": ["model.feed_forward=glu"]})
    assert sorted(study.arms) == ["glu", "relu 0.5", "relu 2", "swiglu 0.5", "swiglu 2"]
    assert Study.model_validate(study.model_dump()) == study


# contrasts


def test_a_term_is_names_or_patterns_in_the_order_of_the_arms(tmp_path: Path) -> None:
    terms = {"relu *": 1.0, "swiglu 2|swiglu 0.5": -1.0}
    study = factorial(tmp_path, contrasts={"gate": {"terms": terms}})
    assert study.contrasts["gate"].groups(list(study.arms)) == [
        (1.0, ("relu 0.5", "relu 2")),
        (-1.0, ("swiglu 0.5", "swiglu 2")),
    ]


def test_a_contrast_may_be_of_an_outcome(tmp_path: Path) -> None:
    """Its metric is then measured, at the looks too."""
    study = read_study(
        written(
            tmp_path,
            outcomes={"failed": {"metric": "bits_per_byte_2x", "above": 3.0}},
            times={"to 2": {"metric": "bits_per_byte_4x", "level": 2.0}},
            contrasts={"gate": {"terms": {"glu": 1.0, "relu": -1.0}, "of": "failed"}},
        )
    )
    assert study.looked_at == ("bits_per_byte", "bits_per_byte_2x", "bits_per_byte_4x")
    assert study.metrics == (*study.looked_at, "loss")


# the hash of what was decided before the runs


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": "Small.", "conclusion": "Undecided."},
        {"published": [{"source": "s", "column": "c", "values": {"glu": 1.0}}]},
        {"seeds": [0, 1, 2, 3]},
        {"looks": [], "contrasts": {}, "tune": None, "stages": {"": []}, "rule": {"alpha": 0.05}},
    ],
)
def test_the_hash_ignores_what_is_written_after_the_runs_more_seeds_and_defaults(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    before = read_study(written(tmp_path)).hash
    assert len(before) == 16
    assert read_study(written(tmp_path, **changes)).hash == before


def test_the_hash_follows_every_decision(tmp_path: Path) -> None:
    gate = {"terms": {"glu": 1.0, "relu": -1.0}}
    decisions: list[dict[str, Any]] = [
        {},
        {"contrasts": {"gate": gate}},
        {"contrasts": {"gate": gate | {"primary": True}}},
        {"rule": {"smallest_difference": 0.01}},
        {"rule": {"equivalence_margin": 0.01}},
        {"looks": [0.5]},
        {"tune": TUNE},
        {"stages": {"half": ["train.steps=2"], "full": []}},
        {"outcomes": {"failed": {"metric": "loss", "above": 3.0}}},
        {"question": "Which one?"},
    ]
    hashes = {read_study(written(tmp_path, **decision)).hash for decision in decisions}
    assert len(hashes) == len(decisions)
