"""The plan of a run with a time budget, on a clock that is made up: it ends in time, warms down to
the end of its schedule, and is not lost by a pause.
"""

import json
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from said import said

from puna.errors import ConfigError, TrainingError
from puna.run_log import read_run_log
from puna.training import trainer as trainer_module
from puna.training.checkpoint import Progress, checkpoints, optimizer_tensors
from puna.training.recipe import OptimizerRecipe, Recipe
from puna.training.run_inputs import RunInputs, Validation
from puna.training.stored_recipe import read_changes, recipe_hash
from puna.training.time_plan import LEAST_WARM_DOWN, TimePlan, pace, plan_for, planned_steps
from puna.training.trainer import Trainer

Pace = Callable[[int, float], float]  # seconds of a step, by its number and the time

BUDGET, MOST = 150.0, 900
OPTIMIZER = OptimizerRecipe(schedule="linear", final_factor=0.0, warmup_steps=30)


class Ended:
    """A run on a clock that `seconds` moves: how it ended, and the learning rates of its steps."""

    def __init__(
        self,
        seconds: Pace,
        budget: float = BUDGET,
        most: int = MOST,
        optimizer: OptimizerRecipe = OPTIMIZER,
        validation: Callable[[float], float] | None = None,
        every: int = 120,
        estimate: float = 0.0,
    ) -> None:
        plan = TimePlan(budget, most, most, position=0.0, validation=estimate)
        self.rates: list[float] = []
        self.plans: list[int] = []
        step, spent = 0, 0.0
        while step < plan.steps:
            plan = plan.decided(step, spent, every)
            self.plans.append(plan.steps)
            self.rates.append(optimizer.factor(step, most, plan.position))
            took = seconds(step, spent + plan.beside)
            plan, spent, step = plan.stepped(step, took), spent + took, step + 1
            if validation and step % every == 0:
                plan = plan.validated(validation(spent + plan.beside))
        self.steps, self.seconds, self.plan = step, spent + plan.beside, plan

    def check_warm_down(self) -> None:
        """The rate rises to a top, and from there to almost nothing without a rise."""
        top = self.rates.index(max(self.rates))
        assert all(one <= two + 1e-9 for one, two in pairwise(self.rates[: top + 1]))
        assert all(one >= two - 1e-9 for one, two in pairwise(self.rates[top:]))
        assert 0 < self.rates[-1] <= 1 / LEAST_WARM_DOWN
        assert self.plan.position == pytest.approx(self.plan.most)


def slower(after: float, factor: float = 4.0, each: float = 0.26) -> Pace:
    return lambda _, now: each * factor if now >= after else each


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("each", [0.05, 0.26, 0.8, 1.5])
def test_four_times_slower_at_any_moment_it_ends_in_time(share: float, each: float) -> None:
    run = Ended(slower(share * BUDGET, each=each))
    assert run.seconds <= 1.2 * BUDGET
    if run.steps < MOST:
        assert run.seconds >= 0.85 * BUDGET, "what is given is used"
    run.check_warm_down()


@given(st.floats(0, 1), st.floats(0.05, 0.8), st.integers(0, 2**32), st.floats(0.1, 0.6))
def test_a_noisy_clock(share: float, each: float, seed: int, noise: float) -> None:
    """Of a hundred steps some last four times as long as the usual, and all so from a moment on."""
    rng = random.Random(seed)
    slow = slower(share * BUDGET, each=each)
    run = Ended(lambda step, now: slow(step, now) * rng.lognormvariate(0, noise))
    assert run.seconds <= 1.25 * BUDGET
    run.check_warm_down()


def test_validations_and_what_follows_the_last_step_have_their_time() -> None:
    """Each takes as long as ten steps, and four times as long from the middle on."""

    def validation(now: float) -> float:
        return 2.6 if now < BUDGET / 2 else 10.4

    run = Ended(slower(BUDGET / 2), validation=validation, every=60, estimate=6.0)
    assert run.plan.beside >= 3 * 2.6
    end = run.seconds + 4 * validation(run.seconds)
    assert 0.9 * BUDGET <= end <= 1.1 * BUDGET
    early = Ended(slower(BUDGET / 2), validation=validation, every=900, estimate=10.0)
    assert early.seconds + 4 * 10.4 <= 1.1 * BUDGET, "before one was measured"
    run.check_warm_down()


@pytest.mark.parametrize("at", [1, 2, 10, 100, 300, 500])
def test_one_step_that_hangs_costs_its_time_and_no_more(at: int) -> None:
    run = Ended(lambda step, _: 30.0 if step == at else 0.26)
    assert run.seconds <= 1.25 * BUDGET
    assert run.steps == pytest.approx((BUDGET - 30) / 0.26, abs=60)
    run.check_warm_down()


def test_a_machine_that_recovers_gets_its_steps_back() -> None:
    quiet = Ended(lambda *_: 0.26)
    run = Ended(lambda _, now: 1.04 if 30 <= now < 60 else 0.26)
    assert min(run.plans) < 0.6 * quiet.steps
    lost = 30 * (1 / 0.26 - 1 / 1.04)
    assert run.steps == pytest.approx(quiet.steps - lost, rel=0.05)
    run.check_warm_down()


def test_a_run_that_fits_is_the_run_of_its_recipe() -> None:
    run = Ended(lambda *_: 0.1)
    assert set(run.plans) == {MOST}
    assert run.rates == [OPTIMIZER.factor(step, MOST) for step in range(MOST)]


@pytest.mark.parametrize("warmup", [{"warmup_steps": 30}, {"warmup_ratio": 0.1}])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_of_many_steps_planned_few_fit(schedule: str, warmup: dict[str, Any]) -> None:
    """Twenty times as many: a warm-up in steps lasts those, one by ratio its share of the run."""
    optimizer = OptimizerRecipe(schedule=schedule, final_factor=0.0, **warmup)
    run = Ended(lambda *_: 0.26, most=12_000, optimizer=optimizer)
    assert run.seconds == pytest.approx(BUDGET, rel=0.02)
    top = run.rates.index(max(run.rates))
    assert max(run.rates) > 0.9
    assert top == pytest.approx(30 if "warmup_steps" in warmup else 0.1 * run.steps, abs=6)
    run.check_warm_down()


def test_cut_amid_the_warm_up_the_rate_does_not_leap() -> None:
    run = Ended(lambda step, _: 20.0 if step in (5, 6, 7) else 0.26, budget=70.0)
    assert run.steps < 60
    assert max(two - one for one, two in pairwise(run.rates)) <= 1 / 30 + 1e-9
    run.check_warm_down()


def test_a_budget_that_is_spent_leaves_a_warm_down() -> None:
    present = {"budget": 60.0, "present": 400, "most": 500}
    assert planned_steps(200, 60.0, 0.26, **present) == 210
    assert planned_steps(200, 90.0, 0.26, **present) == 204
    assert planned_steps(398, 90.0, 0.26, **present) == 400, "it adds no step to two"


def test_a_small_difference_is_no_new_plan() -> None:
    present = {"budget": 100.0, "present": 400, "most": 500}
    assert planned_steps(200, 50.0, 0.25, **present) == 400
    assert planned_steps(200, 50.0, 0.27, **present) == 400
    assert planned_steps(200, 50.0, 0.5, **present) == 300
    assert planned_steps(200, 50.0, 0.01, **present) == 500


def test_the_pace() -> None:
    assert pace((1.0, 1.0)) is None
    assert pace((9.0, 1.0, 1.0)) == 1.0
    assert pace((*(1.0,) * 17, 4.0, 4.0, 4.0)) == 4.0
    assert pace((*(1.0,) * 10, *(3.0,) * 10)) == 3.0
    assert pace((*(3.0,) * 10, *(1.0,) * 10)) == pytest.approx(37 / 19)


def test_another_budget_goes_on_at_the_step_reached(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    saved = TimePlan(60.0, 500, 300, position=200.0, validation=2.0, recent=(1.0,), beside=3.0)
    recipe = tiny_recipe("train.steps=500", "train.minutes=1")
    assert plan_for(recipe, 512, 100, saved) is saved
    assert plan_for(tiny_recipe("train.steps=500"), 512, 100, saved) is None
    for steps, minutes in ((600, 1), (500, 2)):
        recipe = tiny_recipe(f"train.steps={steps}", f"train.minutes={minutes}")
        assert plan_for(recipe, 512, 100, saved) == TimePlan(
            60.0 * minutes, steps, steps, position=100.0, validation=2.0, beside=3.0
        ), "512 tokens are four steps, which go forward and back"


Make = Callable[..., Trainer]
Clock = Callable[[Pace, int], None]
MINUTE = ("train.steps=80", "train.minutes=1", "train.validate_every=10")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the seconds that a trainer's steps take, from the one of this number on; nothing else
    takes time, but for `now`, which may be moved.
    """
    now = SimpleNamespace(seconds=0.0, step=0)
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    own = trainer_module.train_step

    def run_at(seconds: Pace, step: int) -> None:
        now.step = step

        def timed(*arguments: Any, **named: Any) -> Any:
            now.seconds += seconds(now.step, now.seconds)
            now.step += 1
            return own(*arguments, **named)

        monkeypatch.setattr(trainer_module, "train_step", timed)

    run_at.now = now  # type: ignore[attr-defined]
    return run_at


@pytest.fixture
def validate(clock: Any, tiny_inputs: RunInputs) -> Callable[..., Validation]:
    """A validation of two seconds."""

    def timed(model: Any) -> Validation:
        clock.now.seconds += 2.0
        return tiny_inputs.validate(model)

    return timed


def one_then_four(step: int, _: float) -> float:
    return 1.0 if step < 25 else 4.0


def test_a_run_that_gets_slower_ends_in_its_minute(
    trainer: Make, clock: Clock, validate: Callable[..., Validation], tmp_path: Path
) -> None:
    clock(one_then_four, 0)
    run = trainer(tmp_path / "run", *MINUTE, validate=validate)
    assert run.planned_steps == 80
    assert run.train()
    step, plan = run.progress.step, run.progress.plan
    assert plan
    assert run.progress.seconds + plan.beside <= 60 * 1.25
    assert 28 <= step == run.planned_steps < 40
    records = read_run_log(run.run / "metrics.jsonl")
    trained = [record for record in records if record["kind"] == "train"]
    assert trained[-1]["step"] == trained[-1]["planned_steps"] == step
    assert trained[0]["planned_steps"] > 45
    assert {record["step"] for record in records if record["kind"] == "validation"} == {
        *range(10, step, 10),
        step,
    }
    assert trained[-1]["learning_rate"] < 0.01 * 0.4, "cosine to a tenth of 0.01"
    assert list(checkpoints(run.run))[-1] == step


def test_killed_and_resumed_it_is_the_run_in_one_piece(
    trainer: Make, clock: Clock, validate: Callable[..., Validation], tmp_path: Path
) -> None:
    """On the same clock: stopped amid the quick steps, killed amid the slow ones, and stopped in
    the warm-down.
    """
    clock(one_then_four, 0)
    whole = trainer(tmp_path / "whole", *MINUTE, validate=validate)
    assert whole.train()
    clock(one_then_four, 0)
    parted = trainer(tmp_path / "parted", *MINUTE, validate=validate)
    for stop, goes_on in ((13, 13), (28, 20), (29, 29), (whole.progress.step - 1,) * 2):
        assert not parted.train(until=stop)
        if goes_on != stop:
            shutil.rmtree(checkpoints(parted.run)[stop])
        clock(one_then_four, goes_on)
        parted = trainer(tmp_path / "parted", *MINUTE, validate=validate, resume=True)
        assert parted.progress.step == goes_on
    assert parted.train()
    assert whole.progress == parted.progress
    for tensors in (
        lambda t: t.model.state_dict(),
        lambda t: optimizer_tensors(t.model, t.optimizers),
    ):
        one, two = tensors(whole), tensors(parted)
        assert [name for name in one if not one[name].equal(two[name])] == []
    logs = [
        [
            (record["step"], record.get("learning_rate"), record.get("planned_steps"))
            for record in read_run_log(run.run / "metrics.jsonl")
        ]
        for run in (whole, parted)
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("plan", ['"x"', "[1]", '{"steps": 3}', '{"recent": [], "stepz": 3}'])
def test_a_damaged_plan_is_a_damaged_checkpoint(plan: str, trainer: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", *MINUTE)
    run.train(until=1)
    path = checkpoints(run.run)[1] / "training.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"plan": json.loads(plan)}))
    del run
    with pytest.raises(TrainingError, match=said("step-00000001 ... cannot be read ... delete it")):
        trainer(tmp_path / "run", *MINUTE, resume=True)


def test_no_validation_that_the_last_one_follows_at_once(trainer: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", *MINUTE)
    for steps, due in ((70, True), (75, False), (76, True), (80, True)):
        plan = TimePlan(60.0, 80, steps, position=70.0, validation=6.0)
        run.progress = Progress(step=70, plan=plan)
        assert run._validation_due() is due


def test_more_minutes_lengthen_a_finished_run(trainer: Make, clock: Clock, tmp_path: Path) -> None:
    clock(one_then_four, 0)
    assert trainer(tmp_path / "run", *MINUTE).train()
    done = trainer(tmp_path / "run", *MINUTE, resume=True)
    step = done.progress.step
    assert done.train()
    assert done.progress.step == step, "a finished run stays as it is"
    del done
    clock(one_then_four, step)
    more = trainer(tmp_path / "run", *MINUTE, "train.minutes=2", resume=True)
    assert more.changes == {"train.minutes": (1.0, 2.0)}
    assert more.train()
    assert more.progress.step == pytest.approx(step + 15, abs=2)
    assert read_changes(more.run) == [{"step": step, "changed": {"train.minutes": [1.0, 2.0]}}]


def test_a_recipe_without_a_budget_has_the_hash_and_the_log_that_it_had(
    trainer: Make, tmp_path: Path
) -> None:
    run = trainer(tmp_path / "run")
    assert "minutes" not in run.recipe.model_dump()["train"]
    limited = run.recipe.train.model_copy(update={"minutes": 1.0})
    assert recipe_hash(run.recipe) != recipe_hash(run.recipe.model_copy(update={"train": limited}))
    run.train(until=5)
    assert run.progress.plan is None
    assert "planned_steps" not in read_run_log(run.run / "metrics.jsonl")[0]


@pytest.mark.parametrize("minutes", ["0", "-1", ".nan", ".inf"])
def test_minutes_are_a_positive_number(minutes: str, trainer: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said("train.minutes")):
        trainer(tmp_path / "run", f"train.minutes={minutes}")
