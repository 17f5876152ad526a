"""AdamW, Muon and SGD against their formulas, and who gets which."""

from collections.abc import Callable

import pytest
import torch

from puna.model.accounting import count_parameters
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.native.kernels import Kernels
from puna.native.library import available_tiers, load
from puna.training.optimizer import Muon, build_optimizers, orthogonalise, quintic_steps
from puna.training.recipe import OptimizerRecipe, Recipe

JORDAN = quintic_steps("jordan", 5)


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
@pytest.mark.parametrize(
    ("name", "iterations", "least", "greatest"),
    [("jordan", 5, 0.65, 1.25), ("polar_express", 3, 0.18, 1.88), ("polar_express", 8, 0.99, 1.01)],
)
def test_orthogonalised_singular_values_are_near_one(
    shape: tuple[int, int], name: str, iterations: int, least: float, greatest: float
) -> None:
    """The quintics' own bounds, and the singular vectors of the gradient: U^T X V is diagonal."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, v = torch.linalg.svd(gradient, full_matrices=False)
    # condition number 10
    gradient = u @ torch.diag(torch.linspace(1, 0.1, len(s), dtype=torch.float64)) @ v
    found = orthogonalise(gradient, quintic_steps(name, iterations))
    assert found.shape == gradient.shape
    inside = u.T @ found @ v.T
    values = inside.diagonal()
    torch.testing.assert_close(inside, torch.diag(values))
    assert values.min() > least
    assert values.max() < greatest


def test_orthogonalising_ignores_scale_and_survives_zero() -> None:
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
    found = orthogonalise(gradient, JORDAN)
    torch.testing.assert_close(orthogonalise(gradient * 1000, JORDAN), found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalise(gradient.T, JORDAN), found.T)
    assert orthogonalise(torch.zeros(3, 4), JORDAN).equal(torch.zeros(3, 4))


def test_each_step_has_its_coefficients_and_the_last_ones_repeat() -> None:
    """Amsel et al. 2025, algorithm 1: its first triple over 1.01, 1.01^3, 1.01^5; the eighth, 15/8,
    -5/4 and 3/8, for all that follow.
    """
    assert quintic_steps("jordan", 3) == ((3.4445, -4.7750, 2.0315),) * 3
    steps = quintic_steps("polar_express", 10)
    assert quintic_steps("polar_express", 3) == steps[:3]
    assert steps[0] == pytest.approx((8.205161, -22.901935, 16.460720), rel=1e-5)
    assert steps[7:] == ((1.875, -1.25, 0.375),) * 3


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


@pytest.mark.parametrize("cautious", [False, True])
def test_cautious_decay_spares_what_the_update_lets_grow(cautious: bool) -> None:
    """For a 1 x 1 matrix the update is close to the sign of g: decay acts on weights of the
    gradient's sign, which the update shrinks, and not on others.
    """
    size = 1.0
    for a, b, c in JORDAN:
        size = a * size + b * size**3 + c * size**5
    for weight, gradient, decays in ((2.0, 3.0, True), (-2.0, 3.0, not cautious)):
        parameter = torch.nn.Parameter(torch.full((1, 1), weight))
        optimizer = Muon([parameter], lr=0.1, weight_decay=0.5, cautious_decay=cautious)
        parameter.grad = torch.full((1, 1), gradient)
        optimizer.step()
        # size times the gradient's sign, which is 1
        expected = weight - 0.1 * size - (0.1 * 0.5 * weight if decays else 0.0)
        assert parameter.item() == pytest.approx(expected, rel=1e-5)


def test_cautious_decay_acts_by_entry() -> None:
    """The difference to no decay is lr decay w where u w >= 0, and none elsewhere."""
    generator = torch.Generator().manual_seed(4)
    start, gradient = torch.randn(2, 6, 4, generator=generator)
    ends = []
    for decay in (0.0, 0.5):
        weight = torch.nn.Parameter(start.clone())
        optimizer = Muon([weight], lr=0.1, weight_decay=decay, cautious_decay=True)
        weight.grad = gradient.clone()
        optimizer.step()
        ends.append(weight.detach())
    shrinks = (start - ends[0]) * start >= 0
    assert 0 < shrinks.sum() < shrinks.numel()
    torch.testing.assert_close(ends[0] - ends[1], 0.05 * start * shrinks, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("tied", [True, False])
def test_each_kind_of_weight_has_its_rate(
    name: str, tied: bool, tiny_recipe: Callable[..., Recipe]
) -> None:
    """A tied output layer is the embedding and has its rate."""
    own = {"embedding": 0.1, "vector": 0.3, **({} if tied else {"head": 0.2})}
    recipe = tiny_recipe(
        f"model.tie_embeddings={str(tied).lower()}",
        f"optimizer.name={name}",
        "optimizer.learning_rate=0.4",
        *(["optimizer.muon_learning_rate=0.5"] if name == "muon" else []),
        *(f"optimizer.{kind}_learning_rate={rate}" for kind, rate in own.items()),
    )
    model = build_transformer(recipe.model)
    optimizers = build_optimizers(model, recipe.optimizer)
    optimizers.step(0.5)
    rates = {
        id(weight): group["lr"]
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    for key, weight in model.named_parameters():
        rate = (
            0.1
            if "embed_tokens" in key
            else 0.2
            if "lm_head" in key
            else 0.3
            if weight.ndim == 1
            else 0.5
            if name == "muon"
            else 0.4
        )
        assert rates[id(weight)] == pytest.approx(0.5 * rate), key


@pytest.mark.skipif(not available_tiers(), reason="the native core was not built")
@pytest.mark.parametrize("steps", [JORDAN, quintic_steps("polar_express", 3)])
def test_the_kernels_update_as_the_twin_does(
    steps: tuple[tuple[float, float, float], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of matrices of several shapes, one of them too wide for the kernels; small
    singular values of the squares are less exact, hence 1e-3.
    """
    monkeypatch.setattr("puna.training.optimizer.NATIVE_WIDTH", 40)
    starts = [
        torch.randn(shape, generator=torch.Generator().manual_seed(5))
        for shape in ((32, 32), (32, 96), (70, 24), (48, 48), (1, 8))
    ]
    ends = []
    for kernels in (None, Kernels(load())):
        weights = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = Muon(weights, lr=0.1, weight_decay=0.1, steps=steps, kernels=kernels)
        generator = torch.Generator().manual_seed(6)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        ends.append([weight.detach() for weight in weights])
    for start, twin, native in zip(starts, *ends, strict=True):
        assert (native - twin).norm() < 1e-3 * (twin - start).norm()
    assert ends[0][3].equal(ends[1][3]), "too wide for the kernels: the twin's in both"
    assert not ends[0][1].equal(ends[1][1]), "the kernels were not used"
