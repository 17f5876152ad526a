"""Adapters on the native core beside PyTorch's, on every tier that runs here: each row by its own,
and to the last bit where that is promised.
"""

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from both_executors import pack_model
from numpy.typing import NDArray
from safetensors.torch import save_file
from small_llama import build_llama, save_llama_folder, vocabulary
from torch import Tensor, nn

from puna.errors import ModelFolderError
from puna.formats.gguf_model import write_gguf
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import Executor, ScheduledChunk
from puna.inference.language_model import LanguageModel, load
from puna.inference.native_adapters import packed_adapters
from puna.inference.native_executor import NativeExecutor
from puna.inference.native_weights import WeightFormat
from puna.inference.torch_executor import TorchExecutor
from puna.model.adapters import attach
from puna.model.transformer import Transformer
from puna.native.library import available_tiers
from puna.native.library import load as load_library

pytestmark = pytest.mark.skipif(not available_tiers(), reason="the native core is not built")

BLOCK, LENGTH, VOCABULARY = 16, 40, 320
SHAPES: Mapping[str, dict[str, Any]] = {
    "LLaMA": {},
    "odd widths": {"width": 27, "head_width": 10, "num_kv_heads": 1, "feed_forward_width": 45},
}
# by adapter: the rank of each projection that it updates
ADAPTERS: Mapping[str, Mapping[str, int]] = {
    "all": dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 5
    ),
    "some": {"q_proj": 3, "v_proj": 1, "up_proj": 20},
    "one": {"down_proj": 2},
}


@cache
def model_of(shape: str) -> Transformer:
    return build_llama(**SHAPES[shape])


def save_adapter(
    folder: Path, model: Transformer, ranks: Mapping[str, int], seed: int, layers: int = 2
) -> Path:
    """Write a folder as PEFT does, of an adapter whose update is about as large as the weights."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        rank = ranks.get(name.rpartition(".")[2])
        if isinstance(module, nn.Linear) and rank and int(name.split(".")[1]) < layers:
            for letter, size in (
                ("A", (rank, module.in_features)),
                ("B", (module.out_features, rank)),
            ):
                key = f"base_model.model.model.{name}.lora_{letter}.weight"
                tensors[key] = 0.2 * torch.randn(size, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 6,
        "rank_pattern": dict(ranks),
        "target_modules": list(ranks),
        "layers_to_transform": list(range(layers)),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Path]]:
    """The name of a model's shape, and folders of adapters for it."""
    home = tmp_path_factory.mktemp("adapted")
    folders = {
        name: save_adapter(home / name, model_of(request.param), ranks, seed)
        for seed, (name, ranks) in enumerate(ADAPTERS.items())
    }
    return request.param, folders


def native(
    shape: str,
    folders: Mapping[str, Path],
    tier: str,
    weights: WeightFormat = "float32",
    threads: int = 1,
) -> NativeExecutor:
    """An executor whose cache holds what never may reach a result."""
    library = load_library(tier)
    packed = pack_model(model_of(shape), library.lanes, weights)
    adapters = packed_adapters(folders, model_of(shape), packed)
    executor = NativeExecutor(library, packed, num_blocks=20, threads=threads, adapters=adapters)
    for memory in executor.runner._cache:
        memory.fill(0xFF)  # not a number, in float32 and in bfloat16
    return executor


def text_of(seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=LENGTH)


def piece_of(
    text: Sequence[int], start: int, end: int, blocks: Sequence[int], adapter: str | None
) -> ScheduledChunk:
    """The tokens from start to end, all their rows, and no more blocks than they need."""
    return ScheduledChunk(text[start:end], start, blocks[: -(-end // BLOCK)], end - start, adapter)


def logits_of(executor: Executor, *chunks: ScheduledChunk) -> list[NDArray[np.float32]]:
    """The rows of each chunk."""
    found = executor.run(chunks).logits
    rows = found.numpy() if isinstance(found, Tensor) else found
    return np.split(rows, np.cumsum([chunk.rows for chunk in chunks])[:-1])


def wanted_of(
    shape: str, folders: Mapping[str, Path], names: Sequence[str | None]
) -> list[NDArray[np.float32]]:
    """PyTorch's rows of a text with each of the adapters, one text after the other."""
    model = build_llama(**SHAPES[shape])
    adapters = attach(model, folders)
    executor = TorchExecutor(model, num_blocks=3, block_size=BLOCK, adapters=adapters)
    return [
        logits_of(executor, piece_of(text_of(seed), 0, LENGTH, [0, 1, 2], name))[0]
        for seed, name in enumerate(names)
    ]


def distance(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference, of the largest entry."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


NAMES = ("some", None, "all", "one", "all", None)
# a step of single tokens, some of neighbours with one adapter, and steps of chunks
CUTS = ((0, 7, 8, LENGTH), (0, 3, 4, LENGTH), (0, 30, 31, LENGTH))


@pytest.mark.parametrize("tier", available_tiers())
def test_each_row_goes_through_its_own_adapter_as_on_pytorch(
    adapted: tuple[str, dict[str, Path]], tier: str
) -> None:
    """Six texts in one batch, their prompts in pieces and with single tokens between."""
    shape, folders = adapted
    wanted = wanted_of(shape, folders, NAMES)
    executor = native(shape, folders, tier, threads=2)
    assert executor.adapters == tuple(ADAPTERS)
    blocks = np.random.default_rng(0).permutation(18).reshape(6, 3).tolist()
    found: list[list[NDArray[np.float32]]] = [[] for _ in NAMES]
    for step in range(3):
        chunks = [
            piece_of(text_of(seed), *CUTS[seed % 3][step : step + 2], blocks[seed], NAMES[seed])
            for seed in range(6)
        ]
        for mine, rows in zip(found, logits_of(executor, *chunks), strict=True):
            mine.append(rows)
    for seed, rows in enumerate(found):
        assert distance(np.concatenate(rows), wanted[seed]) < 1e-5
    (plain,) = logits_of(executor, piece_of(text_of(0), 0, LENGTH, [18, 19, 0], None))
    assert distance(plain, wanted[0]) > 0.1, "else the test would show nothing"


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("tier", available_tiers())
def test_weights_in_fewer_bits_take_adapters_too(
    adapted: tuple[str, dict[str, Path]], weights: WeightFormat, tier: str
) -> None:
    """The update itself stays float32, so that rows with it are about as far from PyTorch's float32
    as rows without one, and much nearer than these are to them.
    """
    shape, folders = adapted
    executor = native(shape, folders, tier, weights)

    def deviation(adapter: str | None, other: str | None) -> float:
        piece = piece_of(text_of(0), 0, LENGTH, [0, 1, 2], adapter)
        found, wanted = logits_of(executor, piece)[0], wanted_of(shape, folders, (other,))[0]
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))

    assert deviation("all", "all") < 2 * deviation(None, None)
    assert deviation("all", "all") < 0.5 * deviation(None, "all")


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("tier", available_tiers())
def test_bits_depend_on_the_sequence_and_its_adapter_alone(
    adapted: tuple[str, dict[str, Path]], weights: WeightFormat, tier: str
) -> None:
    """On cuts, blocks, the adapters of other rows and the number of threads they do not; without
    an adapter they are those of an executor that has none.
    """
    shape, folders = adapted
    text, rng = text_of(1), random.Random(0)
    alone = native(shape, folders, tier, weights)
    bare = native(shape, {}, tier, weights)
    whole = {
        name: logits_of(alone if name else bare, piece_of(text, 0, LENGTH, [0, 1, 2], name))[0]
        for name in (None, *ADAPTERS)
    }
    for threads in (1, 3):
        executor = native(shape, folders, tier, weights, threads)
        for name, wanted in whole.items():
            tables, done, rows = rng.sample(range(20), 12), 0, []
            while done < LENGTH:
                end = min(LENGTH, done + rng.choice((1, 2, 5, 17, LENGTH)))
                chunks = [
                    piece_of(
                        text_of(2 + i),
                        0,
                        rng.randint(1, LENGTH),
                        tables[3 * i : 3 * i + 3],
                        rng.choice((None, name, *ADAPTERS)),
                    )
                    for i in range(rng.randint(0, 3))
                ]
                place = rng.randint(0, len(chunks))
                chunks.insert(place, piece_of(text, done, end, tables[9:], name))
                rows.append(logits_of(executor, *chunks)[place])
                done = end
            assert np.array_equal(np.concatenate(rows), wanted), (name, threads)


PROMPT = "the llama reads "


def greedy(model: LanguageModel, adapter: str | None) -> list[int]:
    (found,) = model.complete(PROMPT, temperature=0.0, max_tokens=16, adapter=adapter)
    return found.ids


def opened(path: Path, folders: Mapping[str, Path], isa: Any = "auto") -> LanguageModel:
    options = EngineConfig(isa=isa, threads=1, cache_bytes=1 << 20)
    return load(path, "cpu", options=options, adapters=folders)


@pytest.mark.parametrize("kind", ["folder", "GGUF"])
def test_a_model_is_opened_with_its_adapters(kind: str, tmp_path: Path) -> None:
    model = build_llama()
    folders = {
        name: save_adapter(tmp_path / name, model, ADAPTERS[name], 0, layers)
        for name, layers in (("all", 2), ("some", 1))
    }
    path = tmp_path / "model"
    if kind == "folder":
        save_llama_folder(path, model)
    else:
        write_gguf(path, model, vocabulary(), "f32")
    found, wanted = opened(path, folders), opened(path, folders, "torch")
    assert isinstance(found.engine.executor, NativeExecutor)
    assert isinstance(wanted.engine.executor, TorchExecutor)
    texts = [greedy(found, name) for name in (None, "all", "some")]
    assert texts == [greedy(wanted, name) for name in (None, "all", "some")]
    assert len({tuple(ids) for ids in texts}) == 3
    tier = available_tiers()[0]
    assert greedy(opened(path, folders, tier), "all") == texts[1]


def test_a_damaged_adapter_is_named(tmp_path: Path) -> None:
    path = save_llama_folder(tmp_path / "model", build_llama())
    folder = save_adapter(tmp_path / "a", build_llama(width=48), ADAPTERS["one"], 0)
    with pytest.raises(ModelFolderError, match="does not fit the model"):
        opened(path, {"a": folder})
