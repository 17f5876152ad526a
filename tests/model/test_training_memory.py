"""The estimate of activations against what autograd really keeps."""

from contextlib import nullcontext

import pytest
import torch
from kept_bytes import SHAPES, kept_bytes
from torch import Tensor

from puna.model.accounting import activation_bytes, count_parameters, training_memory
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.nn import linear_cross_entropy


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "batch", "context"),
    [
        ("grouped", 4, 100),  # the fused kernel
        ("grouped", 2, 300),  # blocks, the last one short
        ("grouped", 1, 1024),  # blocks, full of probabilities
        ("grouped", 1, 2100),  # the fused kernel again
        ("deep", 2, 300),
        ("wide heads, tied", 8, 100),
        ("wide heads, tied", 2, 384),
    ],
)
def test_estimate_is_within_five_percent_of_what_autograd_keeps(
    shape: str, batch: int, context: int, half: bool, checkpointing: bool
) -> None:
    """With checkpointing, a block's own activations are kept only while it is recomputed, so they
    are summed from one block alone.
    """
    config = SHAPES[shape].model_copy(update={"context_length": context})
    model = build_transformer(config)
    init_weights(model, 0)
    model.activation_checkpointing = checkpointing
    owned = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    ids = torch.randint(0, config.vocab_size, (batch, context + 1))
    x = torch.randn(batch, context, config.width, requires_grad=True)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            return linear_cross_entropy(
                model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:]
            )

    def block() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            return model.layers[0](x, model.rotary(torch.arange(context)))

    kept = kept_bytes(step, owned) + (kept_bytes(block, owned) if checkpointing else 0)
    assert activation_bytes(
        config, batch, context, half=half, checkpointing=checkpointing
    ) == pytest.approx(kept, rel=0.05)


def test_checkpointing_and_a_gpu_s_kernel_need_less() -> None:
    config = ModelConfig.model_validate({"preset": "llama-7b"})
    plain = activation_bytes(config, 1, 2048, half=True)
    assert activation_bytes(config, 1, 2048, half=True, device="cuda") < 0.7 * plain
    assert activation_bytes(config, 1, 2048, half=True, checkpointing=True) < 0.1 * plain


def test_a_step_adds_weights_gradients_moments_and_logits() -> None:
    config = SHAPES["grouped"]
    memory = training_memory(config, 2, 64, half=False)
    state = memory.total - activation_bytes(config, 2, 64, half=False)
    assert state == 16 * count_parameters(config).total + 3 * 4 * (2 * 64) * 512
