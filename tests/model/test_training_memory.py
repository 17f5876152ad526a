"""The estimate of activations against what autograd really keeps."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from puna.model.accounting import activation_bytes, count_parameters, training_memory
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.nn import linear_cross_entropy

SHAPES = {
    "grouped": ModelConfig(
        vocab_size=512, width=64, num_layers=2, num_heads=4, num_kv_heads=2, feed_forward_width=160
    ),
    "deep": ModelConfig(
        vocab_size=512, width=96, num_layers=4, num_heads=4, feed_forward_width=256
    ),
    "wide heads, tied": ModelConfig(
        vocab_size=2000,
        width=64,
        num_layers=3,
        num_heads=3,
        num_kv_heads=1,
        head_width=32,
        feed_forward_width=200,
        tie_embeddings=True,
    ),
}


def kept_bytes(forward: Callable[[], Tensor], owned: set[int]) -> int:
    """Bytes of the distinct storages that autograd saves while `forward` runs, but for those
    `owned` by the model itself.
    """
    # the tensor keeps its memory from being handed out twice
    storages: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(size for size, _ in storages.values())


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
