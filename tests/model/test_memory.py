"""Memory by part, against training steps whose peak was measured and against tensors that were
made.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from said import said

from puna.errors import PlanError
from puna.inference.kv_cache import PagedCache
from puna.model.accounting import activation_bytes, inference_memory, logits_bytes, training_memory
from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.nn.quantized import quantize_linears

STEPS = """
import gc, sys
from pathlib import Path

import torch

from puna.device import autocast
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.nn.loss import linear_cross_entropy
from puna.training.optimizer import build_optimizers
from puna.training.recipe import OptimizerRecipe
from puna.training.step import train_step


def train(config, batch, context):
    model = build_transformer(config)
    init_weights(model, 0)
    optimizers = build_optimizers(model, OptimizerRecipe())
    for _ in range(2):  # the second step has moments
        ids = torch.randint(0, config.vocab_size, (batch, context + 1))
        def loss(ids):
            with autocast(torch.device("cpu"), precision)():
                states = model.hidden_states(ids[:, :-1])
                return linear_cross_entropy(states, model.output_weight, ids[:, 1:])
        train_step(model, loss, optimizers, [ids], factor=1.0, clip_norm=1.0)


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(key))
    return int(line.split()[1]) * 1024


preset, batch, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
config = ModelConfig.model_validate({"preset": preset})
small = ModelConfig(vocab_size=64, width=64, num_layers=1, num_heads=1, context_length=8)
train(small, 1, 8)  # libraries take what they take once
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = status("VmRSS")
train(config, batch, config.context_length)
print(status("VmHWM") - before)
"""


def measured_peak(preset: str, batch: int, precision: str) -> int:
    """Bytes that two training steps add to a process at most; its allocator gives back at once what
    is freed.
    """
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", STEPS, preset, str(batch), precision]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/clear_refs").exists(),
    reason="reads Linux's /proc, sets glibc's allocator",
)
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
