"""Feed-forward layers that look back, with a cache: windows by hand, whole texts by the engine."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from puna.inference.engine import Engine
from puna.inference.engine_config import EngineConfig
from puna.inference.input_cache import Windows
from puna.inference.kv_cache import PagedCache, Run
from puna.inference.request import GenerationOptions, Request
from puna.inference.torch_executor import TorchExecutor
from puna.model.accounting import kv_bytes_per_token
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer

PROMPTS = [(5, 80, 13, 200, 7), tuple(range(40)), (9,), (*range(40), 77, 78), (3, 4, 5, 6) * 10]


def config(**changes: Any) -> ModelConfig:
    shape = {"vocab_size": 300, "width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    layer = {"feed_forward": "convolution", "context_length": 96}
    return ModelConfig.model_validate({**shape, **layer, **changes})


ALONE = {"attention": "none", "placement": "parallel", "position": "none"}


@pytest.fixture(scope="module", params=[{}, ALONE], ids=["beside attention", "alone"])
def model(request: pytest.FixtureRequest) -> Transformer:
    """Random weights, so large that every token that is seen changes the next one."""
    model = build_transformer(config(feed_forward_kernel=4, **request.param)).eval()
    init_weights(model, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= 12
    return model


def test_a_window_is_the_last_inputs_of_its_own_sequence() -> None:
    """Blocks of two anywhere in memory: tokens 0 and 1 of one sequence, token 3 of another."""
    seen = Windows.of([Run(0, 2, [5]), Run(3, 1, [1, 4])], 2, 3, torch.device("cpu"))
    inputs = torch.arange(12.0)[:, None]
    expected = [[0, 0, 10], [0, 10, 11], [3, 8, 9]]
    assert seen.read(inputs).squeeze(2).tolist() == expected


def test_what_was_never_written_is_zero() -> None:
    seen = Windows.of([Run(0, 1, [0])], 2, 3, torch.device("cpu"))
    found = seen.read(torch.tensor([[1.0], [torch.nan]]))
    assert found.squeeze().tolist() == [0, 0, 1]


def greedy_anew(model: Transformer, prompt: Sequence[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    ("blocks", "options"),
    [
        (64, {}),
        (64, {"max_step_tokens": 7, "block_size": 3}),
        (64, {"batch_invariant": True}),
        (14, {}),  # one sequence fits, two at a time do not: preemption
    ],
)
def test_greedy_text_is_that_of_the_definition(
    blocks: int, options: dict[str, Any], model: Transformer
) -> None:
    """In pieces, with prefix caching and draft tokens, which are the defaults; twice, since the
    second time much is cached.
    """
    chosen = EngineConfig(**{"block_size": 8, **options})
    executor = TorchExecutor(
        model,
        num_blocks=blocks,
        block_size=chosen.block_size,
        batch_invariant=chosen.batch_invariant,
    )
    engine = Engine(executor, chosen)
    expected = [greedy_anew(model, prompt, 24) for prompt in PROMPTS]
    assert len({id_ for ids in expected for id_ in ids}) > 8
    for _ in range(2):
        found: dict[str, list[int]] = {str(number): [] for number in range(len(PROMPTS))}
        for name, prompt in zip(found, PROMPTS, strict=True):
            engine.add(Request(name, prompt, GenerationOptions(temperature=0.0, max_tokens=24)))
        while engine.busy:
            for event in engine.step():
                found[event.request] += event.ids
        assert list(found.values()) == expected


def test_the_cache_takes_what_the_accounting_says() -> None:
    for changes in ({}, {"feed_forward_kernel": 1}, {"feed_forward": "relu"}, ALONE):
        shape = config(**changes)
        cache = PagedCache(shape, 3, 4)
        kept = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values, *cache.inputs))
        assert kept == 12 * kv_bytes_per_token(shape, 4)
