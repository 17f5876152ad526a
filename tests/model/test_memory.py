"""Memory by part, against training steps whose peak was measured and against tensors that were
made.
"""

from typing import Any, Literal

import pytest
import torch
from measured_peak import measurable, measured_peak
from said import said

from puna.errors import PlanError
from puna.inference.kv_cache import PagedCache
from puna.model.accounting import activation_bytes, inference_memory, logits_bytes, training_memory
from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.nn.quantized import quantize_linears


@measurable
@pytest.mark.parametrize(
    ("preset", "batch", "precision"),
    [
        ("puna-4m", 4, "float32"),
        pytest.param("puna-4m", 4, "bfloat16", marks=pytest.mark.slow),  # emulated on many CPUs
        pytest.param("puna-4m", 32, "float32", marks=pytest.mark.slow),
        pytest.param("puna-42m", 4, "float32", marks=pytest.mark.slow),
    ],
)
def test_training_memory_is_within_ten_percent_of_the_measured_peak(
    preset: str, batch: int, precision: str
) -> None:
    config = ModelConfig.model_validate({"preset": preset})
    planned = training_memory(
        config, batch, config.context_length, half=precision == "bfloat16", device="cpu"
    ).total
    assert planned == pytest.approx(measured_peak(preset, batch, precision), rel=0.1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_parts_add_up_to_the_estimate_that_the_trainer_uses(
    device: str, half: bool, checkpointing: bool
) -> None:
    config = ModelConfig.model_validate({"preset": "llama-7b"})
    settings: dict[str, Any] = {"half": half, "checkpointing": checkpointing, "device": device}
    memory = training_memory(config, 2, 2048, **settings)
    kept = activation_bytes(config, 2, 2048, **settings) + logits_bytes(config, 2, 2048)
    assert memory.total == 16 * 6_738_415_616 + kept
    assert memory.weights == memory.gradients == memory.optimizer_moments / 2 == 4 * 6_738_415_616


@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("preset", ["puna-1m", "puna-2m", "llama-3.2-1b", "llama-7b"])
def test_inference_memory_is_the_bytes_of_weights_and_cache(
    preset: str, bits: Literal[4, 16]
) -> None:
    config = ModelConfig.model_validate({"preset": preset})
    model = build_transformer(config, "meta").to(torch.bfloat16)
    if bits == 4:
        quantize_linears(model)
    memory = inference_memory(config, 3, 200, bits=bits)
    assert memory.weights == sum(tensor.nbytes for tensor in model.state_dict().values())
    cache = PagedCache(config, num_blocks=3, block_size=200, device="meta", dtype=torch.bfloat16)
    assert memory.kv_cache == sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert memory.total == memory.weights + memory.kv_cache


@pytest.mark.parametrize(
    ("batch", "context", "message"),
    [
        (0, 8, "batch ... 0 ... at least 1"),
        (1, -1, "context ... -1 ... at least 1"),
        (1, 2049, "context ... 2049 ... 2048"),
    ],
)
def test_sizes_that_cannot_be_are_rejected(batch: int, context: int, message: str) -> None:
    config = ModelConfig.model_validate({"preset": "llama-7b"})
    with pytest.raises(PlanError, match=said(message)):
        training_memory(config, batch, context, half=True)
    with pytest.raises(PlanError, match=said(message)):
        inference_memory(config, batch, context)
