"""One update: the mean over all targets, clipping, and the rejection of what is not finite."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.nn.loss import IGNORE, linear_cross_entropy
from puna.training.checkpoint import optimizer_tensors
from puna.training.optimizer import Optimizers, build_optimizers
from puna.training.recipe import Recipe
from puna.training.step import StepResult, train_step

Pair = tuple[Transformer, Optimizers]


@pytest.fixture(params=["adamw", "muon", "sgd"])
def make(request: pytest.FixtureRequest, tiny_recipe: Callable[..., Recipe]) -> Callable[[], Pair]:
    """Equal models with their optimizers."""
    recipe = tiny_recipe(f"optimizer.name={request.param}")

    def build() -> Pair:
        model = build_transformer(recipe.model)
        init_weights(model, 0)
        return model, build_optimizers(model, recipe.optimizer)

    return build


@pytest.fixture
def ids() -> torch.Tensor:
    """Six rows, whose valid targets number 12, 12, 1, 0, 7 and 12."""
    ids = torch.randint(0, 300, (6, 13), generator=torch.Generator().manual_seed(0))
    ids[2, 2:] = ids[3, 1:] = ids[4, 8:] = IGNORE
    return ids


def step(pair: Pair, micro_batches: list[torch.Tensor], clip_norm: float = 1e9) -> StepResult:
    model, optimizers = pair

    def summed_loss(ids: torch.Tensor) -> torch.Tensor:
        # ids that are no targets may be no inputs either
        hidden = model.hidden_states(ids[:, :-1].clamp(min=0))
        return linear_cross_entropy(hidden, model.output_weight, ids[:, 1:])

    return train_step(
        model, summed_loss, optimizers, micro_batches, factor=1.0, clip_norm=clip_norm
    )


def state(pair: Pair) -> dict[str, torch.Tensor]:
    model, optimizers = pair
    tensors = optimizer_tensors(model, optimizers)
    return {
        name: tensor.detach().clone()
        for name, tensor in (*model.state_dict().items(), *tensors.items())
    }


def mean_loss(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids[:, :-1].clamp(min=0))
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=IGNORE)


def test_loss_and_gradient_norm_are_those_of_the_mean_over_valid_targets(
    make: Callable[[], Pair], ids: torch.Tensor
) -> None:
    model, _ = make()
    expected = mean_loss(model, ids)
    expected.backward()  # type: ignore[no-untyped-call]
    norm = torch.stack(
        [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    ).norm()
    result = step(make(), [ids])
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    assert result.gradient_norm == pytest.approx(norm.item(), rel=1e-5)
    assert result.applied


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 2, 2], [4, 2], [1, 5]])
def test_accumulation_equals_the_whole_batch_with_unequal_targets(
    make: Callable[[], Pair], ids: torch.Tensor, sizes: list[int]
) -> None:
    """Averaging the micro-batches would weigh the row with one target like the rows with twelve."""
    whole, parted = make(), make()
    one, two = step(whole, [ids]), step(parted, list(ids.split(sizes)))
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    for name, tensor in state(whole).items():
        if ":" not in name:
            # the weights: Adam's first update is g / |g|, so where g is rounding alone its sign is
            # too
            continue
        torch.testing.assert_close(state(parted)[name], tensor, rtol=1e-4, atol=1e-7, msg=name)


def test_clipping_shortens_what_the_optimizers_see(
    make: Callable[[], Pair], ids: torch.Tensor
) -> None:
    free, clipped = make(), make()
    norm = step(free, [ids]).gradient_norm
    result = step(clipped, [ids], clip_norm=norm / 10)
    assert result.gradient_norm == pytest.approx(norm)  # what is reported is the norm before
    for name, tensor in state(free).items():
        if name.endswith((":exp_avg", ":momentum")):
            torch.testing.assert_close(
                state(clipped)[name], tensor / 10, rtol=1e-4, atol=1e-8, msg=name
            )


def test_a_short_gradient_is_left_as_it_is(make: Callable[[], Pair], ids: torch.Tensor) -> None:
    free, clipped = make(), make()
    norm = step(free, [ids]).gradient_norm
    step(clipped, [ids], clip_norm=2 * norm)
    assert all(tensor.equal(state(clipped)[name]) for name, tensor in state(free).items())


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(
    make: Callable[[], Pair], ids: torch.Tensor, poison: float
) -> None:
    pair = make()
    step(pair, [ids])
    before = state(pair)
    hook = (
        pair[0]
        .layers[1]
        .mlp.down_proj.weight.register_hook(lambda gradient: torch.full_like(gradient, poison))
    )
    result = step(pair, list(ids.split(2)))
    assert not result.applied
    assert torch.tensor(result.gradient_norm).isfinite().logical_not()
    assert all(tensor.equal(state(pair)[name]) for name, tensor in before.items())
    assert all(weight.grad is None for weight in pair[0].parameters()), (
        "the next step would add to them"
    )
    hook.remove()
    twin = make()
    step(twin, [ids])
    assert step(pair, [ids]) == step(twin, [ids])


def test_a_loss_that_is_not_finite_changes_nothing(
    make: Callable[[], Pair], ids: torch.Tensor
) -> None:
    pair = make()
    with torch.no_grad():
        pair[0].norm.weight[0] = float("nan")
    before = copy.deepcopy(state(pair))
    assert not step(pair, [ids]).applied
    assert all(
        tensor.nan_to_num(7).equal(state(pair)[name].nan_to_num(7))
        for name, tensor in before.items()
    )


def test_a_batch_without_targets_changes_nothing(make: Callable[[], Pair]) -> None:
    pair = make()
    before = state(pair)
    ids = torch.full((2, 5), IGNORE)
    assert not step(pair, [ids]).applied
    assert all(tensor.equal(state(pair)[name]) for name, tensor in before.items())
