"""What the tests of the endpoints share: a model with room for a chat with tools, an adapter of it,
and a server of both.

Its weights are nobody's: it writes noise, with half characters in it, and stops when a constraint
or a limit says so.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from background_loop import BackgroundLoop
from live_server import live_server
from openai import OpenAI

from puna.engine_process.client import EngineClient
from puna.engine_process.messages import ModelSpec
from puna.inference.engine_config import EngineConfig
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.model.weights import write_model, write_tensors
from puna.server.http_limits import HttpLimits
from puna.tokenizer.tokenizer import Tokenizer

CONTEXT = 4096
TEXT = (
    'the llama reads {"name": "weather", "parameters": {"type": "object"}} given functions please'
    " respond with JSON 東京 🦙"
)
LIMITS = HttpLimits(output_tokens=64, n=4, requests_per_minute=10**6, burst=10**6)


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 600 tokens and random weights."""
    folder = tmp_path_factory.mktemp("noise")
    rng = random.Random(0)
    tokenizer = Tokenizer.train(
        (" ".join(rng.choices(TEXT.split(), k=40)) for _ in range(400)), 600
    )
    tokenizer.save(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        context_length=CONTEXT,
    )
    model = build_transformer(config).eval()
    init_weights(model, 0)
    write_model(folder, model, bos_id=tokenizer.bos_id, eos_ids=tuple(sorted(tokenizer.end_ids)))
    return folder


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of that model that changes what it says."""
    folder = tmp_path_factory.mktemp("adapter")
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 64,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(2):
        for name, rows in (("q_proj", 32), ("v_proj", 16)):
            for letter, shape in (("A", (2, 32)), ("B", (rows, 2))):
                key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{letter}.weight"
                tensors[key] = torch.randn(shape, generator=generator)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    return folder


@pytest.fixture(scope="session")
def noise(loop: BackgroundLoop, noise_folder: Path, adapter_folder: Path) -> Iterator[EngineClient]:
    """A started engine with that model."""
    spec = ModelSpec("noise", str(noise_folder), {"loud": str(adapter_folder)})
    started = loop.run(
        EngineClient.start([spec], EngineConfig(max_running=8), device="cpu", threads=1)
    )
    yield started
    loop.run(started.close())


@pytest.fixture(scope="session")
def url(loop: BackgroundLoop, noise: EngineClient) -> Iterator[str]:
    """The address of a server of it."""
    with live_server(loop, noise, LIMITS) as address:
        yield address


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx.Client]:
    """Plain HTTP to it."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def openai(url: str) -> Iterator[OpenAI]:
    """OpenAI's own client."""
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def tokenizer(noise: EngineClient) -> Tokenizer:
    """The model's vocabulary."""
    return noise.models["noise"].text.tokenizer
