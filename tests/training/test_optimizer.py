"""AdamW, Muon and SGD against their formulas, and who gets which."""

from collections.abc import Callable

import pytest
import torch

from puna.model.accounting import count_parameters
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.training.optimizer import Muon, build_optimizers, orthogonalise
from puna.training.recipe import OptimizerRecipe, Recipe


@pytest.fixture
def model(tiny_recipe: Callable[..., Recipe]) -> Transformer:
    model = build_transformer(tiny_recipe().model)
    init_weights(model, 0)
    return model


def with_random_gradients(model: Transformer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Copies of every weight and of the gradient that it is given."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    return {
        name: (weight.detach().clone(), weight.grad.clone())
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_one_step_of_adamw_is_its_formula(model: Transformer, factor: float) -> None:
    """After one step both moments, corrected for their start at 0, are g and g^2: w <- w (1 - lr
    decay) - lr g / (|g| + eps).
    """
    recipe = OptimizerRecipe(learning_rate=0.01, weight_decay=0.2)
    optimizers = build_optimizers(model, recipe)
    before = with_random_gradients(model)
    optimizers.step(factor)
    rate = 0.01 * factor
    for name, weight in model.named_parameters():
        old, gradient = before[name]
        decay = 0.2 if weight.ndim == 2 else 0.0
        expected = old * (1 - rate * decay) - rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_three_steps_of_sgd_are_its_formula(model: Transformer, momentum: float) -> None:
    """m <- momentum m + g + decay w; w <- w - lr m, with decay for matrices alone."""
    recipe = OptimizerRecipe(name="sgd", learning_rate=0.1, momentum=momentum, weight_decay=0.2)
    optimizers = build_optimizers(model, recipe)
    expected = {name: (w.detach().double(), 0.0) for name, w in model.named_parameters()}
    for _ in range(3):
        gradients = {name: g for name, (_, g) in with_random_gradients(model).items()}
        optimizers.step(0.5)
        for name, (weight, moved) in expected.items():
            decay = 0.2 if weight.ndim == 2 else 0.0
            moved = momentum * moved + gradients[name].double() + decay * weight
            expected[name] = weight - 0.05 * moved, moved
    for name, found in model.named_parameters():
        torch.testing.assert_close(found.detach().double(), expected[name][0], rtol=1e-5, atol=1e-6)


def test_decay_shrinks_matrices_alone(model: Transformer) -> None:
    """With gradients of zero, decay is all that is left."""
    optimizers = build_optimizers(model, OptimizerRecipe(learning_rate=0.1, weight_decay=0.5))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizers.step(1.0)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(
            weight.detach(), before[name] * (0.95 if weight.ndim == 2 else 1.0), msg=name
        )
    assert {
        name.rpartition(".")[0].rpartition(".")[2]
        for name, weight in model.named_parameters()
        if weight.ndim == 1
    } == {
        "norm",
        "input_layernorm",
        "post_attention_layernorm",
    }


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_every_weight_has_one_owner(
    name: str, tied: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    """A tied output layer is the embedding, so it is updated once, not twice."""
    recipe = tiny_recipe(f"model.tie_embeddings={tied}", f"optimizer.name={name}")
    model = build_transformer(recipe.model)
    owned = [
        weight
        for o in build_optimizers(model, recipe.optimizer).optimizers
        for group in o.param_groups
        for weight in group["params"]
    ]
    assert len({id(weight) for weight in owned}) == len(owned)
    assert sum(weight.numel() for weight in owned) == count_parameters(recipe.model).total


def test_muon_takes_the_matrices_of_the_blocks(model: Transformer) -> None:
    muon, adamw = build_optimizers(model, OptimizerRecipe(name="muon")).optimizers
    names = {id(weight): name for name, weight in model.named_parameters()}
    taken = {
        names[id(weight)].split(".")[-2]
        for group in muon.param_groups
        for weight in group["params"]
    }
    assert taken == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    left = {
        names[id(weight)].split(".")[-2]
        for group in adamw.param_groups
        for weight in group["params"]
    }
    assert left == {"embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"}


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (16, 64), (1, 8)])
def test_orthogonalised_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    """The quintic's own bounds, and the singular vectors of the gradient: U^T X V is diagonal."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, v = torch.linalg.svd(gradient, full_matrices=False)
    # condition number 10
    gradient = u @ torch.diag(torch.linspace(1, 0.1, len(s), dtype=torch.float64)) @ v
    found = orthogonalise(gradient)
    assert found.shape == gradient.shape
    inside = u.T @ found @ v.T
    values = inside.diagonal()
    torch.testing.assert_close(inside, torch.diag(values))
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_orthogonalising_ignores_scale_and_survives_zero() -> None:
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        orthogonalise(gradient * 1000), orthogonalise(gradient), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(orthogonalise(gradient.T), orthogonalise(gradient).T)
    assert orthogonalise(torch.zeros(3, 4)).equal(torch.zeros(3, 4))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_three_steps_of_muon_are_its_formula(shape: tuple[int, int]) -> None:
    """m <- 0.9 m + 0.1 g; w <- w (1 - lr decay) - lr sqrt(max(1, R/C)) NS(0.1 g + 0.9 m), with NS
    by matrix powers of the text.
    """

    def newton_schulz(gradient: torch.Tensor) -> torch.Tensor:
        x = gradient / gradient.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
        return x

    generator = torch.Generator().manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, momentum = weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        update = newton_schulz(0.1 * gradient + 0.9 * momentum)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * max(1, shape[0] / shape[1]) ** 0.5 * update
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-4, atol=1e-4)


def test_factors_multiply_the_recipes_rates_not_the_last_ones(model: Transformer) -> None:
    optimizers = build_optimizers(
        model, OptimizerRecipe(name="muon", learning_rate=0.01, muon_learning_rate=0.5)
    )
    for factor in (0.5, 0.5, 0.1):
        optimizers.step(factor)
    assert [
        group["lr"] for o in optimizers.optimizers for group in o.param_groups
    ] == pytest.approx([0.05, 0.001, 0.001])
