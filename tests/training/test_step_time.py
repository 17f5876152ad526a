"""Timed steps are real training steps, of a model that nobody else sees."""

from collections.abc import Callable

import pytest
import torch

from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.training import step_time
from puna.training.batch_loss import batch_loss
from puna.training.optimizer import build_optimizers
from puna.training.recipe import Recipe
from puna.training.step import train_step
from puna.training.step_time import StepTimer, fastest_step_seconds, random_batch


def test_a_timed_step_changes_the_weights_as_a_training_step_does(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    recipe = tiny_recipe()
    batch, timer = random_batch(recipe), StepTimer(recipe)
    assert timer.seconds(lambda: batch) > 0
    model = build_transformer(recipe.model).train()
    init_weights(model, recipe.seed)
    loss = batch_loss(model, recipe, torch.device("cpu"), "float32")
    train_step(
        model,
        loss.function,
        build_optimizers(model, recipe.optimizer),
        torch.split(batch, recipe.micro_batch_size),
        factor=1.0,
        clip_norm=recipe.optimizer.clip_norm,
    )
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, timer.model.state_dict()[name]), name


def test_a_factor_of_zero_changes_no_weight(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe()
    timer = StepTimer(recipe, factor=0.0)
    before = {name: value.clone() for name, value in timer.model.state_dict().items()}
    timer.seconds(lambda: random_batch(recipe))
    assert all(torch.equal(before[name], v) for name, v in timer.model.state_dict().items())


def test_a_random_batch_has_the_recipes_shape_and_is_the_same_each_time(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    recipe = tiny_recipe()
    batch = random_batch(recipe)
    assert batch.shape == (recipe.train.batch_size, recipe.context_length + 1)
    assert 0 <= batch.min() <= batch.max() < recipe.model.vocab_size
    assert torch.equal(batch, random_batch(recipe))


def test_the_fastest_step_is_not_the_first(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first warms up and does not count, though it were the fastest; each asks for its own
    batch.
    """
    recipe, asked = tiny_recipe(), []
    ticks = iter([0, 1, 10, 15, 20, 23, 30, 34])  # of four steps: 1, 5, 3 and 4 seconds
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: next(ticks))

    def batch(step: int) -> torch.Tensor:
        asked.append(step)
        return random_batch(recipe)

    assert fastest_step_seconds(recipe, batch, steps=3) == 3
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize(("most_seconds", "steps"), [(0.0, 2), (5.0, 2), (7.0, 3), (30.0, 4)])
def test_long_steps_end_the_timing_early(
    most_seconds: float,
    steps: int,
    tiny_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine with busy neighbours seven steps took longer than the whole quickstart had."""
    recipe, asked = tiny_recipe(), []
    ticks = iter([0, 4, 10, 12, 20, 21, 30, 35])  # of four steps: 4, 2, 1 and 5 seconds
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: next(ticks))

    def batch(step: int) -> torch.Tensor:
        asked.append(step)
        return random_batch(recipe)

    fastest = fastest_step_seconds(recipe, batch, steps=3, most_seconds=most_seconds)
    assert (fastest, len(asked)) == (2 if steps == 2 else 1, steps)
