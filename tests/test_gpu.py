"""What only a CUDA device can show: `make test-gpu`. Everything else runs on a CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from continued import continued

from puna.device import choose_device, choose_precision, measure_matmul_peak
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import read_model, write_model
from puna.training.batch_loss import batch_loss
from puna.training.optimizer import build_optimizers
from puna.training.recipe import OptimizerRecipe, Recipe
from puna.training.step import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def a_model(device: str) -> Transformer:
    model = build_transformer(
        ModelConfig(
            vocab_size=512, width=128, num_layers=2, num_heads=4, num_kv_heads=2, context_length=256
        ),
        device,
    )
    init_weights(model, seed=0)
    return model.eval()


def test_logits_on_the_gpu_are_those_of_the_cpu() -> None:
    ids = torch.randint(0, 512, (2, 200))
    torch.testing.assert_close(
        a_model("cuda")(ids.cuda()).cpu(), a_model("cpu")(ids), atol=1e-4, rtol=1e-4
    )


def test_greedy_text_is_that_of_the_cpu(tmp_path: Path) -> None:
    write_model(tmp_path, a_model("cuda"))
    prompts = [[1, 2, 3], list(range(50))]
    texts = [
        continued(read_model(tmp_path, device), prompts, temperature=0.0, max_tokens=20)
        for device in ("cpu", "cuda")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_in_bfloat16_learns_a_batch_by_heart(
    name: str, compiled: bool, tiny_recipe: Callable[..., Recipe]
) -> None:
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    model = a_model("cuda").train()
    recipe = tiny_recipe(f"train.compile={str(compiled).lower()}")
    loss = batch_loss(model, recipe, device, precision)
    optimizers = build_optimizers(model, OptimizerRecipe(name=name, learning_rate=3e-3))
    ids = torch.randint(0, 512, (8, 129), device=device)
    losses = [
        train_step(
            model,
            loss.function,
            optimizers,
            [ids],
            factor=1.0,
            clip_norm=1.0,
        ).loss
        for _ in range(40)
    ]
    assert losses[-1] < losses[0] / 2
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_the_matmul_peak_is_that_of_an_accelerator() -> None:
    device = choose_device("cuda")
    assert measure_matmul_peak(device, choose_precision("auto", device)) > 1e12
