"""The forecast of a study's rest, in proportion to the training FLOPs that are left."""

from pathlib import Path
from typing import Any

import pytest
from small_study import write_study

from puna.device import processor_name
from puna.study.arms import resolve_arms
from puna.study.definition import read_study
from puna.study.forecast import Forecast
from puna.study.job import Job
from puna.study.results import FILE, append_record
from puna.study.tuning import FILE as TUNING
from puna.training.run_inputs import RunInputs

STEP = 4 * 32  # tokens
SHORT = ["train.steps=4", "optimizer.warmup_steps=1"]
LONG = ["train.steps=8", "optimizer.warmup_steps=1"]


@pytest.fixture
def two_lengths(tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path) -> Path:
    """Two seeds of an arm of four steps and of one of eight."""
    return write_study(
        tmp_path / "study", tiny_recipe_file, arms={"one": SHORT, "long": LONG}, probes=[]
    )


def flops(folder: Path) -> float:
    """Training FLOPs of one token of the arm `one`."""
    return resolve_arms(read_study(folder), folder)["one"].flops_per_token


def finish(folder: Path, job: Job, tokens: int, seconds: float, **changes: Any) -> None:
    """The part of a record that a forecast reads."""
    append_record(
        folder / (TUNING if job.point else FILE),
        {
            "arm": job.arm,
            "seed": job.seed,
            "stage": job.stage,
            "point": list(job.point),
            "tokens": tokens,
            "flops_per_token": flops(folder),
            "machine": {"processor": processor_name(), "seconds": seconds} | changes,
        },
    )


def forecast(folder: Path, jobs: int = 1, last: str | None = None) -> Forecast:
    return Forecast(read_study(folder), folder, jobs, last)


def test_runs_to_come_take_as_long_as_their_flops_at_the_rate_of_the_records(
    two_lengths: Path,
) -> None:
    """Ten seconds for four steps: left are four more, and twice eight."""
    finish(two_lengths, Job("one", 3), 4 * STEP, 10.0)
    assert forecast(two_lengths).seconds == pytest.approx(10 + 2 * 20, rel=1e-4)
    assert forecast(two_lengths, jobs=2).seconds == pytest.approx(25, rel=1e-4)


def test_it_follows_the_records_as_they_come(two_lengths: Path) -> None:
    """12 steps in 36 seconds; left are 4 steps and 8. At the end nothing is."""
    found = forecast(two_lengths)
    finish(two_lengths, Job("one", 3), 4 * STEP, 10.0)
    finish(two_lengths, Job("long", 3), 8 * STEP, 26.0)
    assert found.seconds == pytest.approx(36, rel=1e-4)
    finish(two_lengths, Job("one", 4), 4 * STEP, 10.0)
    finish(two_lengths, Job("long", 4), 8 * STEP, 26.0)
    assert found.seconds == 0


def test_a_wider_arm_takes_longer_by_its_flops(tiny_recipe_file: Path, tmp_path: Path) -> None:
    arms = {"one": SHORT, "wide": [*SHORT, "model.feed_forward_width=960"]}
    folder = write_study(tmp_path / "study", tiny_recipe_file, arms=arms, probes=[])
    for seed in (3, 4):
        finish(folder, Job("one", seed), 4 * STEP, 10.0)
    wide = resolve_arms(read_study(folder), folder)["wide"].flops_per_token
    assert wide > 2 * flops(folder)
    assert forecast(folder).seconds == pytest.approx(2 * 10 * wide / flops(folder), rel=1e-4)


@pytest.fixture
def timed_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine whose steps take half a second; the list grows when they are timed."""
    timed: list[int] = []

    def half_a_second(_recipe: Any, _batch: Any, *, steps: int) -> float:
        timed.append(steps)
        return 0.5

    monkeypatch.setattr("puna.study.forecast.fastest_step_seconds", half_a_second)
    return timed


def test_without_records_the_rate_is_that_of_timed_steps(
    two_lengths: Path, timed_steps: list[int]
) -> None:
    """24 steps of half a second, timed once."""
    found = forecast(two_lengths, jobs=2)
    assert found.seconds == found.seconds == pytest.approx(24 * 0.5 / 2)
    assert timed_steps == [3]


def test_records_of_another_processor_count_as_done_and_say_nothing_of_this_one(
    two_lengths: Path, timed_steps: list[int]
) -> None:
    finish(two_lengths, Job("one", 3), 4 * STEP, 1e6, processor="another")
    assert forecast(two_lengths).seconds == pytest.approx(20 * 0.5)
    finish(two_lengths, Job("one", 4), 4 * STEP, 10.0)
    assert forecast(two_lengths).seconds == pytest.approx(2 * 20, rel=1e-4)


def test_tuning_and_stages_count_with_their_own_steps(
    two_lengths: Path, tiny_recipe_file: Path, timed_steps: list[int]
) -> None:
    """2 points of 2 steps for each of 2 arms; then 4 runs of 3 steps, and 4 of 6."""
    write_study(
        two_lengths,
        tiny_recipe_file,
        arms={"one": SHORT, "long": LONG},
        tune={
            "grid": {"optimizer.learning_rate": [1e-3, 2e-3]},
            "seeds": [9],
            "overrides": ["train.steps=2"],
        },
        stages={"half": ["train.steps=3"], "full": ["train.steps=6"]},
    )
    assert forecast(two_lengths).seconds == pytest.approx((4 * 2 + 4 * 3 + 4 * 6) * 0.5)
    assert forecast(two_lengths, last="half").seconds == pytest.approx((4 * 2 + 4 * 3) * 0.5)
    point = ("optimizer.learning_rate=0.001",)
    finish(two_lengths, Job("one", 9, "", point), 2 * STEP, 4.0)
    left = 3 * 2 + 4 * 3
    assert forecast(two_lengths, last="half").seconds == pytest.approx(left * 2.0, rel=1e-4)
