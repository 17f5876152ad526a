"""study.yaml: what it may say, how arms are matched, and what is rejected with which rule."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from puna.errors import ConfigError
from puna.study.arms import MATCHED_WITHIN, resolve_arms
from puna.study.definition import read_study

RELU = ["model.feed_forward=relu", "model.feed_forward_multiple=null"]
STUDY: dict[str, Any] = {
    "question": "Which?",
    "base": "base.yaml",
    "baseline": "swiglu",
    "arms": {"swiglu": [], "relu": RELU, "glu": ["model.feed_forward=glu"]},
    "matched": "parameters",
    "seeds": [0, 1],
}
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
        (["relu"], r"'relu' is not of the form section.key=value"),
    ],
)
def test_an_arm_that_cannot_be_is_named(arm: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_arms(read_study(written(tmp_path, arms={"swiglu": [], "x": arm})), tmp_path)


def test_a_folder_without_a_definition_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no study: it has no study.yaml"):
        read_study(tmp_path)
