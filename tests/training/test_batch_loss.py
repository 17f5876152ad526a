"""The loss of a batch, the same on each backend, and what it is computed by."""

from collections.abc import Callable

import pytest
import torch
from said import said

from puna.device import Precision
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.native.library import available_tiers
from puna.nn.mask import document_numbers
from puna.training.batch_loss import batch_loss
from puna.training.recipe import Recipe

CPU = torch.device("cpu")
ISAS = ["torch", *available_tiers()]


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "documents"])
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-6), ("bfloat16", 1e-3)])
@pytest.mark.parametrize("isa", ISAS)
def test_each_backend_gives_the_sum_over_the_targets(
    isa: str,
    precision: Precision,
    bound: float,
    masked: bool,
    tiny_recipe: Callable[..., Recipe],
) -> None:
    recipe = tiny_recipe(f"train.isa={isa}", f"train.mask_documents={str(masked).lower()}")
    model = build_transformer(recipe.model)
    init_weights(model, 0)
    ids = torch.randint(0, 300, (3, 30), generator=torch.Generator().manual_seed(0))
    ids[:, 11] = 1
    documents = (lambda some: document_numbers(some, 1)) if masked else None
    found = batch_loss(model, recipe, CPU, precision, documents)
    assert found.backend.isa == isa
    assert (found.kernels is None) == (isa == "torch")
    loss = found.function(ids)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    hidden = model.hidden_states(ids[:, :-1], documents=documents(ids[:, :-1]) if masked else None)
    logits = (hidden @ model.output_weight.t()).double()
    expected = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=bound)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.any(), name


@pytest.mark.parametrize("isa", available_tiers())
def test_a_target_that_is_no_token_is_no_crash(
    isa: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    """As where shards were made with a larger vocabulary than the model's."""
    recipe = tiny_recipe(f"train.isa={isa}")
    model = build_transformer(recipe.model)
    init_weights(model, 0)
    ids = torch.zeros(1, 5, dtype=torch.int64)
    ids[0, -1] = recipe.model.vocab_size
    loss = batch_loss(model, recipe, CPU, "float32").function
    with pytest.raises(ValueError, match=said("target 300 ... 0 to 299")):
        loss(ids)
