"""The executor on the native core beside PyTorch's, on every tier that runs here; and to the last
bit where it promises that.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from both_executors import pack_model
from numpy.typing import NDArray
from torch import Tensor

from puna.inference.engine import Engine
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import Executor, ScheduledChunk
from puna.inference.native_executor import NativeExecutor, random_native
from puna.inference.native_weights import ACTIVATIONS, WeightFormat
from puna.inference.request import GenerationOptions, Request
from puna.inference.torch_executor import TorchExecutor
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.native.library import available_tiers, load
from puna.native.model_runner import MOST_THREADS
from puna.native.packed_model import PackedModel

NONE = pytest.param(None, marks=pytest.mark.skip(reason="the native core is not built"))
KINDS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        **{gate: {"feed_forward": gate} for gate in ACTIVATIONS},
        "multi-head": {"num_kv_heads": 4},
        "multi-query": {"num_kv_heads": 1},
        "tied": {"tie_embeddings": True, "scale_embeddings": True},
        "odd widths": {"width": 27, "head_width": 20, "feed_forward_width": 45},
        "half rotary": {"rope_fraction": 0.5},
        "no positions": {"position": "none"},
        "scaled": {"rope_scaling": {"kind": "llama3", "original_context": 24}},
    }
)
VOCABULARY, LENGTH, BLOCK = 53, 70, 16


@pytest.fixture(params=available_tiers() or [NONE])
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def model_of(kind: str) -> Transformer:
    """Weights large enough for every token of the past to matter to every row."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "width": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_width": 8,
        "context_length": 80,
        "feed_forward_width": 48,
    }
    model = build_transformer(ModelConfig.model_validate({**shape, **KINDS[kind]}))
    init_weights(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@cache
def packed_of(kind: str, weights: WeightFormat, lanes: int) -> PackedModel:
    return pack_model(model_of(kind), lanes, weights)


def native(
    kind: str, tier: str, weights: WeightFormat = "float32", **options: Any
) -> NativeExecutor:
    """An executor whose cache holds what never may reach a result."""
    library = load(tier)
    packed = packed_of(kind, weights, library.lanes)
    executor = NativeExecutor(library, packed, **{"num_blocks": 20, **options})
    for memory in executor.runner._cache:
        memory.fill(0xFF)  # not a number, in float32, in bfloat16 and as a scale
    return executor


def text_of(seed: int, length: int = LENGTH) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def piece_of(
    text: Sequence[int],
    start: int,
    end: int,
    blocks: Sequence[int],
    rows: int | None = None,
    pooled: bool = False,
) -> ScheduledChunk:
    """The tokens from start to end, and no more blocks than they need."""
    wanted = end - start if rows is None else rows
    return ScheduledChunk(text[start:end], start, blocks[: -(-end // BLOCK)], wanted, pooled=pooled)


def logits_of(executor: Executor, *chunks: ScheduledChunk) -> NDArray[np.float32]:
    found = executor.run(chunks).logits
    return found.numpy() if isinstance(found, Tensor) else found


@cache
def wanted_of(kind: str, seed: int, int8_cache: bool = False) -> NDArray[np.float32]:
    """PyTorch's rows of a whole text."""
    executor = TorchExecutor(model_of(kind), num_blocks=5, block_size=BLOCK, int8_cache=int8_cache)
    return logits_of(executor, piece_of(text_of(seed), 0, LENGTH, [4, 1, 0, 3, 2]))


def distance(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference, of the largest entry."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_float32_rows_are_pytorch_s(kind: str, tier: str) -> None:
    """A prompt at once, and one in pieces beside another."""
    one, two = text_of(1), text_of(2)
    executor = native(kind, tier, threads=2)
    found = logits_of(executor, piece_of(one, 0, LENGTH, [5, 3, 9, 11, 0]))
    assert found.dtype == np.float32
    assert distance(found, wanted_of(kind, 1)) < 1e-5
    blocks = [1, 6, 2, 15, 4]
    found = logits_of(
        executor,
        piece_of(two, 0, 50, blocks, 3),
        piece_of(one, LENGTH - 1, LENGTH, [5, 3, 9, 11, 0]),
    )
    assert distance(found[:3], wanted_of(kind, 2)[47:50]) < 1e-5
    assert distance(found[3:], wanted_of(kind, 1)[-1:]) < 1e-5
    assert (
        distance(logits_of(executor, piece_of(two, 50, LENGTH, blocks)), wanted_of(kind, 2)[50:])
        < 1e-5
    )


@pytest.mark.parametrize(("weights", "bound"), [("bfloat16", 0.01), ("int8", 0.04), ("int4", 0.35)])
@pytest.mark.parametrize("kind", ["swiglu", "odd widths"])
def test_rows_in_fewer_bits_are_near(
    kind: str, weights: WeightFormat, bound: float, tier: str
) -> None:
    """Two layers of weights that are 3 times as large as they are made: roundings of 2^-9 with
    bfloat16, of about 1/250 with int8 (1/126 of inputs on AVX2) and 1/14 with int4.
    """
    found = logits_of(
        native(kind, tier, weights), piece_of(text_of(1), 0, LENGTH, [5, 3, 9, 11, 0])
    )
    assert distance(found, wanted_of(kind, 1)) < bound


@pytest.mark.parametrize("kind", KINDS)
def test_rows_over_an_int8_cache_are_pytorch_s(kind: str, tier: str) -> None:
    """Both round keys and values to the same codes, but where a sum that differs in its last bit
    falls on the other side of a half: that entry is then a 254th of its head's largest off.
    """
    executor = native(kind, tier, threads=2, int8_cache=True)
    found = logits_of(executor, piece_of(text_of(1), 0, LENGTH, [5, 3, 9, 11, 0]))
    assert distance(found, wanted_of(kind, 1, int8_cache=True)) < 2e-3
    assert 2e-4 < distance(found, wanted_of(kind, 1)) < 0.1


@pytest.mark.parametrize("int8_cache", [False, True])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_bits_depend_on_the_sequence_alone(
    weights: WeightFormat, int8_cache: bool, tier: str
) -> None:
    """On cuts, blocks, other chunks of the step and the number of threads they do not."""
    text, others = text_of(1), [text_of(seed) for seed in (2, 3)]
    rng = random.Random(0)
    wanted = logits_of(
        native("odd widths", tier, weights, int8_cache=int8_cache),
        piece_of(text, 0, LENGTH, [0, 1, 2, 3, 4]),
    )
    for threads in (1, 2, 3):
        executor = native("odd widths", tier, weights, threads=threads, int8_cache=int8_cache)
        for _ in range(3):
            tables = rng.sample(range(20), 15)
            done, rows = 0, []
            while done < LENGTH:
                end = min(LENGTH, done + rng.choice((1, 2, 5, 17, 40, LENGTH)))
                chunks = [
                    piece_of(other, 0, rng.randint(1, LENGTH), tables[5 * i : 5 * i + 5], 1)
                    for i, other in enumerate(others)
                    if rng.random() < 0.5
                ]
                place = rng.randint(0, len(chunks))
                chunks.insert(place, piece_of(text, done, end, tables[10:]))
                found = logits_of(executor, *chunks)
                rows.append(found[place : place + end - done])
                done = end
            assert np.array_equal(np.concatenate(rows), wanted), threads


@pytest.mark.parametrize("int8_cache", [False, True])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_chunk_reads_what_another_of_the_step_writes(
    threads: int, weights: WeightFormat, int8_cache: bool, tier: str
) -> None:
    """Two texts that begin alike, the second on blocks that the first fills in the same step."""
    first, shared = text_of(1), 3 * BLOCK
    second = [*first[:shared], *text_of(2)[shared:]]
    alone = native("swiglu", tier, weights, int8_cache=int8_cache)
    blocks = [0, 1, 2, 3, 4], [0, 1, 2, 8, 9]
    wanted = [
        logits_of(alone, piece_of(first, 0, LENGTH, blocks[0])),
        logits_of(alone, piece_of(second, 0, LENGTH, [10, 11, 12, 13, 14]))[shared:],
    ]
    chunks = piece_of(first, 0, LENGTH, blocks[0]), piece_of(second, shared, LENGTH, blocks[1])
    for order in ((0, 1), (1, 0)):
        executor = native("swiglu", tier, weights, threads=threads, int8_cache=int8_cache)
        found = logits_of(executor, *(chunks[i] for i in order))
        assert np.array_equal(found, np.concatenate([wanted[i] for i in order]))


def test_a_step_has_places_for_so_many_threads(tier: str) -> None:
    assert native("swiglu", tier, threads=1000).runner.threads == MOST_THREADS


def test_pooled_is_the_sum_of_the_final_hidden_states(tier: str) -> None:
    text, model = text_of(1), model_of("swiglu")
    executor = native("swiglu", tier, threads=2)
    output = executor.run(
        [
            piece_of(text_of(2), 0, 9, [0, 1, 2, 3, 4]),
            piece_of(text, 0, 41, [5, 6, 7, 8, 9], 0, pooled=True),
        ]
    )
    again = executor.run([piece_of(text, 41, LENGTH, [5, 6, 7, 8, 9], 0, pooled=True)])
    assert output.pooled[0] is None
    assert output.logits.shape == (9, VOCABULARY)
    assert again.logits.shape == (0, VOCABULARY)
    first, second = (np.asarray(each) for each in (output.pooled[1], again.pooled[0]))
    with torch.inference_mode():
        hidden = model.hidden_states(torch.tensor([text]))[0].numpy()
    assert distance(first, hidden[:41].sum(0)) < 1e-5
    assert distance(first + second, hidden.sum(0)) < 1e-5


def test_logits_are_those_of_ids_that_have_a_text(tier: str) -> None:
    executor = native("tied", tier, vocab_size=41)
    chunks = [piece_of(text_of(1), 0, LENGTH, [5, 3, 9, 11, 0])]
    found = logits_of(executor, *chunks)
    assert (executor.vocab_size, executor.context_length, found.shape) == (41, 80, (LENGTH, 41))
    assert np.array_equal(found, logits_of(native("tied", tier), *chunks)[:, :41])


@pytest.mark.parametrize("int8_cache", [False, True])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_a_weight_that_is_no_number_shows(
    weights: WeightFormat, int8_cache: bool, tier: str
) -> None:
    """In the rows that it enters, and in no others: the embedding of one id."""
    library, model = load(tier), build_transformer(model_of("swiglu").config).eval()
    model.load_state_dict(model_of("swiglu").state_dict())
    with torch.no_grad():
        model.embed_tokens.weight[7, 3] = torch.nan
    packed = pack_model(model, library.lanes, weights)
    executor = NativeExecutor(library, packed, num_blocks=4, threads=2, int8_cache=int8_cache)
    assert np.isnan(logits_of(executor, piece_of([1, 2, 7], 0, 3, [0]))[2]).all()
    assert np.isfinite(logits_of(executor, piece_of([1, 2, 8], 0, 3, [1]))).all()


def greedy_texts(executor: Executor) -> dict[str, list[int]]:
    engine = Engine(executor, EngineConfig(block_size=BLOCK, max_step_tokens=24))
    options = GenerationOptions(temperature=0.0, max_tokens=20)
    for seed, length in enumerate((1, 5, 17, 40, 55)):
        engine.add(Request(str(seed), tuple(text_of(seed, length)), options))
    texts: dict[str, list[int]] = {}
    while engine.busy:
        for event in engine.step():
            texts.setdefault(event.request, []).extend(event.ids)
    return texts


@pytest.mark.parametrize("kind", ["swiglu", "tied", "scaled"])
def test_greedy_text_is_that_of_pytorch(kind: str, tier: str) -> None:
    wanted = greedy_texts(TorchExecutor(model_of(kind), num_blocks=25, block_size=BLOCK))
    found = greedy_texts(native(kind, tier, num_blocks=25, threads=2))
    assert found == wanted
    assert {len(ids) for ids in found.values()} == {20}
    assert len({tuple(ids) for ids in found.values()}) == 5


def test_greedy_text_over_an_int8_cache_is_near_that_of_a_plain_one(tier: str) -> None:
    """At each place up to the first token that differs, the plain cache's rows are given the same
    ids; where the texts part, its logits of the two tokens are nearer than twice what the rounding
    moves a logit. Preemption, prefix caching and drafts change no token of the int8 cache's text.
    """
    plain = greedy_texts(native("swiglu", tier, num_blocks=25))
    found = greedy_texts(native("swiglu", tier, num_blocks=25, int8_cache=True, threads=2))
    assert found == greedy_texts(native("swiglu", tier, num_blocks=6, int8_cache=True))
    same = 0
    for seed, length in enumerate((1, 5, 17, 40, 55)):
        prompt, ids, other = text_of(seed, length), found[str(seed)], plain[str(seed)]
        first = next((i for i in range(20) if ids[i] != other[i]), 20)
        same += first
        text = [*prompt, *ids[:first]]
        chunk = piece_of(text, 0, len(text), range(5), 1)
        (rounded,), (row,) = (
            logits_of(native("swiglu", tier, int8_cache=int8), chunk) for int8 in (True, False)
        )
        moved = np.abs(rounded - row).max()
        assert moved < 0.1 * np.abs(row).max()
        if first < 20:
            assert row[other[first]] - row[ids[first]] <= 2 * moved
    assert same >= 50


def test_random_weights_run(tier: str) -> None:
    config = model_of("swiglu").config
    for weights in ("float32", "bfloat16", "int8", "int4"):
        executor = random_native(config, weights, threads=1, isa=tier)  # type: ignore[arg-type]
        found = logits_of(executor, piece_of(text_of(1), 0, 20, [0, 1]))
        assert found.shape == (20, VOCABULARY)
        assert np.isfinite(found).all()
        assert found.std() > 0
