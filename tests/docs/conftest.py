"""An untrained model and an engine process with it, called `quickstart` as in the pages.

Its weights are random: it writes noise, with half characters in it, and stops when a constraint or
a limit says so. Its context holds a chat with tools.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from background_loop import BackgroundLoop

from puna.engine_process.client import EngineClient
from puna.engine_process.messages import ModelSpec
from puna.inference.engine_config import EngineConfig
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.model.weights import write_model
from puna.tokenizer.tokenizer import Tokenizer

TEXT = (
    'the llama reads {"name": "weather", "parameters": {"type": "object"}} given functions please'
    " respond with JSON 東京 🦙"
)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 600 tokens and random weights."""
    folder = tmp_path_factory.mktemp("quickstart")
    rng = random.Random(0)
    tokenizer = Tokenizer.train(
        (" ".join(rng.choices(TEXT.split(), k=40)) for _ in range(400)), vocab_size=600
    )
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        context_length=4096,
    )
    torch.manual_seed(0)
    model = build_transformer(config)
    init_weights(model, 0)
    write_model(folder, model, bos_id=tokenizer.bos_id, eos_ids=tuple(sorted(tokenizer.end_ids)))
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def loop() -> Iterator[BackgroundLoop]:
    """The loop that everything asynchronous of this folder runs in."""
    background = BackgroundLoop()
    yield background
    background.close()


@pytest.fixture(scope="session")
def client(loop: BackgroundLoop, model_folder: Path) -> Iterator[EngineClient]:
    """A started client of a process with that model; leave it as it was."""
    spec = ModelSpec("quickstart", str(model_folder))
    started = loop.run(EngineClient.start([spec], EngineConfig(), device="cpu", threads=1))
    yield started
    loop.run(started.close())
