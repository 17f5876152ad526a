"""The estimate of a step's memory on the native core, against what autograd keeps."""

from collections.abc import Callable

import pytest
import torch
from kept_bytes import SHAPES, kept_bytes

from puna.model.accounting import training_memory
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.native.kernels import Kernels
from puna.native.library import available_tiers, load
from puna.training.native_model import NativeModel
from puna.training.recipe import Recipe
from puna.training.step_memory import native_memory, step_memory

pytestmark = pytest.mark.skipif(not available_tiers(), reason="the native core is not built")


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


def test_a_recipe_s_estimate_follows_its_backend(tiny_recipe: Callable[..., Recipe]) -> None:
    def total(*overrides: str) -> int:
        return step_memory(tiny_recipe(*overrides), torch.device("cpu"), "float32").total

    recipe = tiny_recipe()
    shape = (recipe.model, recipe.micro_batch_size, recipe.context_length)
    assert total() == native_memory(*shape, half=False).total
    assert total("train.isa=torch") == training_memory(*shape, half=False).total
    # a part on PyTorch: as if all were
    assert total("model.norm=layernorm") == total("model.norm=layernorm", "train.isa=torch")
