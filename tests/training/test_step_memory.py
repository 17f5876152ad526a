"""The estimate of a step's memory, on the native core against what autograd keeps, and with each
optimizer against measured peaks.
"""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from kept_bytes import SHAPES, kept_bytes
from measured_peak import measurable, measured_peak
from said import said

from puna.errors import TrainingError
from puna.model.accounting import count_parameters, training_memory
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.native.kernels import Kernels
from puna.native.library import available_tiers, load
from puna.training.compute_backend import Backend, fastest_backend
from puna.training.distributed import Ranks
from puna.training.native_model import NativeModel
from puna.training.optimizer import build_optimizers, state_bytes
from puna.training.recipe import OPTIMIZERS, OptimizerRecipe, Recipe
from puna.training.step_memory import (
    native_memory,
    planned_memory,
    reject_too_large,
    sharded_memory,
    step_memory,
)

built = pytest.mark.skipif(not available_tiers(), reason="the native core is not built")


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("batch", "context"), [(4, 64), (2, 300), (8, 100)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_activations_are_within_five_percent_of_what_autograd_keeps(
    shape: str, batch: int, context: int, dtype: torch.dtype
) -> None:
    config = SHAPES[shape].model_copy(update={"context_length": context})
    model = build_transformer(config)
    init_weights(model, 0)
    native = NativeModel(model, Kernels(load()), dtype)
    owned = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    ids = torch.randint(0, config.vocab_size, (batch, context + 1))
    kept = kept_bytes(lambda: native.loss(ids), owned)
    memory = native_memory(config, batch, context, half=dtype == torch.bfloat16)
    assert memory.activations == pytest.approx(kept, rel=0.05)


@built
def test_a_recipe_s_estimate_follows_its_backend(tiny_recipe: Callable[..., Recipe]) -> None:
    def total(*overrides: str) -> int:
        return step_memory(tiny_recipe(*overrides), torch.device("cpu"), "float32").total

    recipe = tiny_recipe()
    shape = (recipe.model, recipe.micro_batch_size, recipe.context_length)
    assert total() == native_memory(*shape, half=False).total
    assert total("train.isa=torch") == training_memory(*shape, half=False).total
    # a part on PyTorch: as if all were
    assert total("model.norm=layernorm") == total("model.norm=layernorm", "train.isa=torch")
    # Muon's one momentum of each matrix of the blocks, and AdamW's two of the rest
    parameters = count_parameters(recipe.model)
    once = recipe.model.num_layers * sum(
        weight.numel()
        for weight in build_transformer(recipe.model, "meta").layers[0].parameters()
        if weight.ndim == 2
    )
    assert total() - total("optimizer.name=muon") == 4 * once
    assert total() - total("optimizer.name=sgd") == 4 * parameters.total


@pytest.mark.parametrize("name", [*OPTIMIZERS, "sgd without momentum"])
def test_the_state_is_that_of_the_optimizers_after_a_step(name: str) -> None:
    config = SHAPES["wide heads, tied"]
    name, _, without = name.partition(" ")
    recipe = OptimizerRecipe.model_validate({"name": name} | ({"momentum": 0} if without else {}))
    model = build_transformer(config)
    init_weights(model, 0)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizers = build_optimizers(model, recipe)
    optimizers.step(1.0)
    kept = sum(
        value.nbytes
        for optimizer in optimizers.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim  # all but the number of steps
    )
    assert state_bytes(config, recipe) == kept


@measurable
def test_shards_divide_what_is_kept_and_not_what_is_gathered() -> None:
    config = ModelConfig.model_validate({"preset": "puna-4m"})
    whole = training_memory(config, 4, 64, half=True)
    parameters = count_parameters(config)
    block = (parameters.attention + parameters.feed_forward) // config.num_layers
    block += 2 * config.width  # its norms
    rest = parameters.total - config.num_layers * block
    for half, gathered in ((True, 2 * 2), (False, 2 * 4)):
        found = sharded_memory(whole, config, 4, half=half)
        kept = (whole.weights, whole.gradients, whole.optimizer_moments)
        assert (found.weights, found.gradients, found.optimizer_moments) == tuple(
            part // 4 for part in kept
        )
        assert (found.activations, found.logits) == (whole.activations, whole.logits)
        assert found.gathered == (4 + 4) * rest + (gathered + 4) * block


def test_the_ranks_of_a_host_are_counted_together(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cpu = tiny_recipe("train.shards=all"), torch.device("cpu")
    one = step_memory(recipe, cpu, "float32", 2).total
    assert one < step_memory(recipe, cpu, "float32").total
    ranks = Ranks(0, 2, local_size=2)
    monkeypatch.setattr("puna.training.step_memory.memory_bytes", lambda _: 2 * one)
    reject_too_large(recipe, cpu, "float32", ranks)
    monkeypatch.setattr("puna.training.step_memory.memory_bytes", lambda _: 2 * one - 1)
    with pytest.raises(TrainingError, match=said("on cpu, for 2 processes together ... lower")):
        reject_too_large(recipe, cpu, "float32", ranks)


@pytest.mark.parametrize(
    ("preset", "batch", "precision", "backend", "optimizer"),
    [
        pytest.param("puna-4m", 4, "float32", "native", "adamw", marks=built),
        pytest.param("puna-4m", 4, "float32", "native", "muon", marks=built),
        pytest.param("puna-42m", 4, "float32", "native", "muon", marks=[built, pytest.mark.slow]),
        pytest.param("puna-4m", 4, "bfloat16", "native", "muon", marks=[built, pytest.mark.slow]),
        pytest.param("puna-4m", 4, "float32", "torch", "muon", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_ten_percent_of_the_measured_peak(
    preset: str,
    batch: int,
    precision: str,
    backend: Literal["torch", "native"],
    optimizer: str,
) -> None:
    config = ModelConfig.model_validate({"preset": preset})
    planned = planned_memory(
        config,
        batch,
        config.context_length,
        fastest_backend(config) if backend == "native" else Backend("torch"),
        OptimizerRecipe(name=optimizer),
        half=precision == "bfloat16",
        checkpointing=False,
        device="cpu",
    ).total
    peak = measured_peak(preset, batch, precision, backend, optimizer)
    assert planned == pytest.approx(peak, rel=0.1)
