"""The peak memory of real training steps, measured in a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

measurable = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/clear_refs").exists(),
    reason="reads Linux's /proc, sets glibc's allocator",
)

STEPS = """
import gc, sys
from pathlib import Path

import torch

from puna.device import autocast
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.native.kernels import Kernels
from puna.native.library import load
from puna.nn.loss import linear_cross_entropy
from puna.training.native_model import NativeModel
from puna.training.optimizer import build_optimizers
from puna.training.recipe import OptimizerRecipe
from puna.training.step import train_step


def train(config, batch, context):
    model = build_transformer(config)
    init_weights(model, 0)
    kernels = Kernels(load()) if backend == "native" else None
    optimizers = build_optimizers(model, OptimizerRecipe(name=optimizer), kernels)

    def loss(ids):
        with autocast(torch.device("cpu"), precision)():
            states = model.hidden_states(ids[:, :-1])
            return linear_cross_entropy(states, model.output_weight, ids[:, 1:])

    if kernels:
        loss = NativeModel(model, kernels, getattr(torch, precision)).loss
    for _ in range(2):  # the second step has moments
        ids = torch.randint(0, config.vocab_size, (batch, context + 1))
        train_step(model, loss, optimizers, [ids], factor=1.0, clip_norm=1.0)


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(key))
    return int(line.split()[1]) * 1024


preset, batch, precision, backend, optimizer = sys.argv[1:]
batch = int(batch)
config = ModelConfig.model_validate({"preset": preset})
small = ModelConfig(vocab_size=64, width=64, num_layers=1, num_heads=1, context_length=8)
train(small, 1, 8)  # libraries take what they take once
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = status("VmRSS")
train(config, batch, config.context_length)
print(status("VmHWM") - before)
"""


def measured_peak(
    preset: str,
    batch: int,
    precision: str,
    backend: Literal["torch", "native"] = "torch",
    optimizer: str = "adamw",
) -> int:
    """Bytes that two training steps add to a process at most, on its model's whole context; its
    allocator gives back at once what is freed.
    """
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", STEPS, preset, str(batch), precision, backend, optimizer]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
