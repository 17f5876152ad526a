"""The executor against the model without a cache: any mixture of chunks, in any order; and to the
last bit where it promises that.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_adapters import save_adapter, save_llama
from torch import Tensor

from puna.inference import kv_cache
from puna.inference.executor import Executor, ScheduledChunk, StepOutput
from puna.inference.torch_executor import TorchExecutor
from puna.model.adapters import attach
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import read_model
from puna.nn import quantize_linears

KINDS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "LLaMA": {},
        "multi-head": {"num_kv_heads": 4},
        "multi-query": {"num_kv_heads": 1},
        "learned": {"position": "learned"},
        "sinusoidal": {"position": "sinusoidal"},
        "no positions": {"position": "none"},
        "slopes": {"position": "alibi"},
        "window": {"sliding_window": 7},
        "window and slopes": {
            "sliding_window": 7,
            "position": "alibi",
            "num_heads": 6,
            "num_kv_heads": 2,
        },
        "qk-norm": {"qk_norm": True},
        "scaled": {"rope_scaling": {"original_context": 12}, "tie_embeddings": True},
    }
)
LENGTH = 24
BLOCK = 4


@cache
def model_of(kind: str) -> Transformer:
    """Weights large enough for every token of the past to matter to every row."""
    shape = {
        "vocab_size": 50,
        "width": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_width": 8,
        "context_length": 32,
    }
    model = build_transformer(
        ModelConfig.model_validate({**shape, "feed_forward_width": 48, **KINDS[kind]})
    )
    init_weights(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            (
                parameter.mul_(5)
                if parameter.ndim == 2
                else parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            )
    return model.eval()


@cache
@torch.inference_mode()
def uncached(kind: str, text: tuple[int, ...]) -> Tensor:
    """The logits of a whole text, computed at once."""
    return model_of(kind)(torch.tensor([text]))[0]


def texts_of(rng: random.Random, number: int, shared: int = 0) -> list[tuple[int, ...]]:
    start = rng.choices(range(50), k=shared)
    return [(*start, *rng.choices(range(50), k=LENGTH - shared)) for _ in range(number)]


def spoilt(model: Transformer, num_blocks: int, **options: Any) -> TorchExecutor:
    """An executor whose cache holds what never may reach a result."""
    executor = TorchExecutor(model, num_blocks=num_blocks, block_size=BLOCK, **options)
    for memory in (*executor._cache.keys, *executor._cache.values):
        memory.fill_(torch.nan)
    return executor


def tables(rng: random.Random, number: int) -> list[list[int]]:
    """Blocks in any order for so many texts."""
    each = LENGTH // BLOCK
    numbers = rng.sample(range(number * each), number * each)
    return [numbers[row * each : (row + 1) * each] for row in range(number)]


def piece_of(
    text: Sequence[int],
    start: int,
    end: int,
    blocks: Sequence[int],
    rows: int | None = None,
    **options: Any,
) -> ScheduledChunk:
    """The tokens from start to end, all their rows unless said otherwise, and no more blocks than
    they need.
    """
    return ScheduledChunk(
        text[start:end],
        start,
        blocks[: -(-end // BLOCK)],
        end - start if rows is None else rows,
        **options,
    )


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_a_text_gives_the_rows_of_the_whole(kind: str) -> None:
    (text,) = texts_of(random.Random(0), 1)
    for cut in range(1, LENGTH):
        (blocks,) = tables(random.Random(cut), 1)
        executor = spoilt(model_of(kind), LENGTH // BLOCK)
        parts = [
            executor.run([piece_of(text, start, end, blocks)]).logits
            for start, end in ((0, cut), (cut, LENGTH))
        ]
        assert_near(torch.cat(parts), uncached(kind, text))


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_gives_the_rows_of_the_whole(kind: str, batch_invariant: bool) -> None:
    (text,) = texts_of(random.Random(0), 1)
    executor = spoilt(model_of(kind), 6, batch_invariant=batch_invariant)
    rows = [
        executor.run([piece_of(text, position, position + 1, [3, 1, 0, 5, 4, 2])]).logits
        for position in range(LENGTH)
    ]
    assert_near(torch.cat(rows), uncached(kind, text))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    number=st.integers(1, 6),
    batch_invariant=st.sampled_from([False, False, True]),
)
def test_any_mixture_of_pieces_gives_the_rows_of_each_text_alone(
    kind: str, seed: int, number: int, batch_invariant: bool
) -> None:
    """Chunks, single tokens and drafts, in steps of any composition; texts that begin alike share
    blocks from the step that fills them.
    """
    rng = random.Random(seed)
    shared = BLOCK * rng.randint(0, 3)
    texts, blocks, done = texts_of(rng, number, shared), tables(rng, number), [0] * number
    executor = spoilt(model_of(kind), number * LENGTH // BLOCK, batch_invariant=batch_invariant)
    while unfinished := [index for index in range(number) if done[index] < LENGTH]:
        now = sorted(rng.sample(unfinished, rng.randint(1, len(unfinished))))
        chunks, expected = [], []
        for index in now:
            count = min(rng.choice((1, 1, 1, 3, 9, LENGTH)), LENGTH - done[index])
            # the first one's blocks are cached, or will be in this step
            if index and done[index] == 0 and done[0] >= shared:
                blocks[index][: shared // BLOCK] = blocks[0][: shared // BLOCK]
                done[index] = shared
                count = min(count, LENGTH - shared)
            start, end = done[index], done[index] + count
            rows = rng.randint(0, count)
            chunks.append(piece_of(texts[index], start, end, blocks[index], rows))
            expected.append(uncached(kind, texts[index])[end - rows : end])
            done[index] = end
        assert_near(executor.run(chunks).logits, torch.cat(expected))


def test_rows_come_in_the_caller_s_order_and_for_ids_that_have_a_text() -> None:
    model, texts, blocks = (
        model_of("LLaMA"),
        texts_of(random.Random(3), 3),
        tables(random.Random(3), 3),
    )
    executor = spoilt(model, 18, vocab_size=41)
    chunks = [
        piece_of(text, 0, end, table, rows)
        for text, end, table, rows in zip(texts, (9, 1, 5), blocks, (2, 1, 0), strict=True)
    ]
    logits = executor.run(chunks).logits
    assert (logits.shape, logits.dtype, executor.vocab_size) == ((3, 41), torch.float32, 41)
    assert_near(
        logits,
        torch.cat((uncached("LLaMA", texts[0])[7:9, :41], uncached("LLaMA", texts[1])[:1, :41])),
    )
    assert executor.run(chunks[2:]).logits.shape == (0, 41)
    assert spoilt(model, 18, batch_invariant=True).run(chunks[2:]).logits.shape == (0, 50)


def test_pieces_that_are_alike_share_calls_of_attention_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    attend = kv_cache.Group.attend
    monkeypatch.setattr(
        kv_cache.Group,
        "attend",
        lambda group, *tensors: calls.append(group.runs) or attend(group, *tensors),
    )
    texts, blocks = texts_of(random.Random(10), 6), tables(random.Random(10), 6)
    executor = TorchExecutor(model_of("LLaMA"), num_blocks=36, block_size=BLOCK)
    executor.run(
        [
            piece_of(text, 8, 9 + index % 2, table)
            for index, (text, table) in enumerate(zip(texts, blocks, strict=True))
        ]
    )
    assert calls == [3, 3] * model_of("LLaMA").config.num_layers


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_pooled_is_the_sum_of_the_final_hidden_states(batch_invariant: bool) -> None:
    model, texts, blocks = (
        model_of("LLaMA"),
        texts_of(random.Random(4), 2),
        tables(random.Random(4), 2),
    )
    executor = spoilt(model, 12, batch_invariant=batch_invariant)
    output = executor.run(
        [piece_of(texts[0], 0, 3, blocks[0]), piece_of(texts[1], 0, 15, blocks[1], 0, pooled=True)]
    )
    again = executor.run([piece_of(texts[1], 15, LENGTH, blocks[1], 0, pooled=True)])
    assert output.pooled[0] is None
    first, second = output.pooled[1], again.pooled[0]
    assert first is not None
    assert second is not None
    with torch.inference_mode():
        hidden = model.hidden_states(torch.tensor([texts[1]]))[0]
    torch.testing.assert_close(first, hidden[:15].sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first + second, hidden.sum(0), rtol=1e-4, atol=1e-4)
    assert len(output.logits) == 3


def test_a_draft_that_was_wrong_leaves_no_trace() -> None:
    (text,), blocks = texts_of(random.Random(5), 1), [2, 5, 1, 0, 3, 4]
    draft = (*text[:11], *((token + 1) % 50 for token in text[11:16]))
    executor = spoilt(model_of("LLaMA"), 6)
    executor.run([piece_of(text, 0, 10, blocks)])
    rows = executor.run([piece_of(draft, 10, 16, blocks)]).logits
    assert_near(rows, uncached("LLaMA", draft)[10:16])
    assert_near(
        executor.run([piece_of(text, 11, 12, blocks)]).logits, uncached("LLaMA", text)[11:12]
    )
    assert_near(
        executor.run([piece_of(text, 12, LENGTH, blocks)]).logits, uncached("LLaMA", text)[12:]
    )


def test_a_half_precision_model_gives_float32_logits() -> None:
    (text,) = texts_of(random.Random(6), 1)
    exact = uncached("LLaMA", text)
    shape = model_of("LLaMA").config
    model = build_transformer(shape).bfloat16()
    model.load_state_dict(model_of("LLaMA").state_dict())
    executor = spoilt(model, 6)
    logits = torch.cat(
        [
            executor.run([piece_of(text, start, end, range(6))]).logits
            for start, end in ((0, 20), (20, 24))
        ]
    )
    assert logits.dtype == torch.float32
    assert (logits - exact).norm() < 0.05 * exact.norm()


def test_a_model_of_four_bits_runs_too() -> None:
    (text,) = texts_of(random.Random(7), 1)
    model = build_transformer(model_of("LLaMA").config)
    model.load_state_dict(model_of("LLaMA").state_dict())
    quantize_linears(model)
    with torch.inference_mode():
        whole = model(torch.tensor([text]))[0]
    executor = spoilt(model, 6)
    assert_near(
        torch.cat(
            [
                executor.run([piece_of(text, a, b, range(6))]).logits
                for a, b in ((0, 20), (20, 21), (21, 24))
            ]
        ),
        whole,
    )


# The promise of batch_invariant: the same bits whatever else happens


def bits(
    executor: TorchExecutor,
    text: Sequence[int],
    cuts: Sequence[int],
    blocks: Sequence[int],
    start: int = 0,
) -> Tensor:
    """All rows from `start` on, the text given in chunks that end at the cuts."""
    parts = []
    for end in (*cuts, LENGTH):
        parts.append(executor.run([piece_of(text, start, end, blocks)]).logits)
        start = end
    return torch.cat(parts)


@pytest.mark.parametrize(
    "kind", ["LLaMA", "multi-head", "multi-query", "learned", "window", "window and slopes"]
)
@settings(max_examples=2)
@given(seed=st.integers(0, 2**31))
def test_batch_invariant_rows_are_the_same_bits_in_any_company(kind: str, seed: int) -> None:
    """One text alone and at once; in chunks; behind a cached prefix; after a preemption,
    elsewhere; in a batch of others.
    """
    rng = random.Random(seed)
    texts = texts_of(rng, 4, shared=8)
    text, (here, there, *others) = texts[0], tables(rng, 4)

    def executor() -> TorchExecutor:
        return spoilt(model_of(kind), 24, batch_invariant=True)

    alone = bits(executor(), text, [], range(6))
    cut = executor()
    assert torch.equal(bits(cut, text, sorted(rng.sample(range(1, LENGTH), 3)), here), alone)
    assert torch.equal(bits(cut, text, [13], [*here[:2], *there[2:]], start=8), alone[8:]), (
        "behind the first two blocks of the other"
    )
    assert torch.equal(bits(cut, text, [20], there), alone), (
        "preempted, and computed anew in other blocks"
    )
    mixed, end = executor(), rng.randint(9, LENGTH)
    chunks = [
        piece_of(texts[1], 0, 10, others[0], 1),
        piece_of(text, 0, end, here),
        piece_of(texts[2], 8, 20, [*here[:2], *others[1][2:]]),
    ]
    assert torch.equal(mixed.run(chunks).logits[1 : 1 + end], alone[:end])
    shared = bits(executor(), texts[2], [], range(6))
    assert torch.equal(mixed.run([chunks[2], chunks[0]]).logits[:12], shared[8:20])


def test_without_batch_invariance_bits_differ_in_company() -> None:
    """Else the test above would show nothing."""
    texts, blocks = texts_of(random.Random(8), 2), tables(random.Random(8), 2)
    executor = spoilt(model_of("LLaMA"), 12)
    alone = torch.cat(
        [
            executor.run([piece_of(texts[0], position, position + 1, blocks[0])]).logits
            for position in range(LENGTH)
        ]
    )
    assert not torch.equal(
        executor.run(
            [piece_of(text, 0, LENGTH, table) for text, table in zip(texts, blocks, strict=True)]
        ).logits,
        alone,
    )


# Adapters


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[..., TorchExecutor], Path]:
    """Executors of a model with the adapters a and b, and the folder of the model without."""
    home = tmp_path_factory.mktemp("adapted")
    base = save_llama(home / "base")
    for seed, name in enumerate("ab"):
        save_adapter(
            home / name, base, seed=seed, r=2, target_modules=["q_proj", "v_proj", "down_proj"]
        )
    model = read_model(base)
    adapters = attach(model, {name: home / name for name in "ab"})
    return lambda **options: spoilt(model, 36, adapters=adapters, **options), base


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_each_piece_goes_through_its_own_adapter(
    adapted: tuple[Callable[..., TorchExecutor], Path], batch_invariant: bool
) -> None:
    build, base = adapted
    rng = random.Random(9)
    texts, blocks, names = texts_of(rng, 6), tables(rng, 6), ("b", None, "a", "b", None, "a")
    alone = []
    for text, name in zip(texts, names, strict=True):
        alone.append(
            build(batch_invariant=batch_invariant)
            .run([piece_of(text, 0, LENGTH, range(6), adapter=name)])
            .logits
        )
    together, found = build(batch_invariant=batch_invariant), [torch.empty(0, 50)] * 6
    for starts, ends in (
        ((0,) * 6, (7, 7, 7, 3, 3, 9)),
        ((7, 7, 7, 3, 3, 9), (8, 8, 8, 24, 4, 10)),
        ((8, 8, 8, 24, 4, 10), (24,) * 6),
    ):
        chunks = [
            piece_of(text, start, end, table, adapter=name)
            for text, start, end, table, name in zip(
                texts, starts, ends, blocks, names, strict=True
            )
            if start < end
        ]
        rows = list(together.run(chunks).logits.split([chunk.rows for chunk in chunks]))
        found = [
            torch.cat((rows_so_far, rows.pop(0))) if s < e else rows_so_far
            for rows_so_far, s, e in zip(found, starts, ends, strict=True)
        ]
    for mine, expected in zip(found, alone, strict=True):
        assert_near(mine, expected)
        assert not batch_invariant or torch.equal(mine, expected)
    with torch.inference_mode():
        assert_near(alone[1], read_model(base)(torch.tensor([texts[1]]))[0])
        assert (alone[0] - read_model(base)(torch.tensor([texts[0]]))[0]).abs().max() > 0.1


def test_the_model_is_left_without_an_adapter(
    adapted: tuple[Callable[..., TorchExecutor], Path],
) -> None:
    build, base = adapted
    executor, ids = build(), torch.tensor([[1, 2, 3]])
    executor.run([ScheduledChunk([1, 2], 0, [0], 1, "a")])
    with pytest.raises(IndexError):
        executor.run([ScheduledChunk([1, 99], 0, [0], 1, "a")])
    with torch.inference_mode():
        assert torch.equal(executor._model(ids), read_model(base)(ids))


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (ScheduledChunk([1], 0, [0], 1, "c"), "there is no adapter 'c'"),
        (ScheduledChunk([1, 2], 0, [0], 3), "3 rows of 2 ids"),
        (ScheduledChunk([1] * 5, 0, [0], 1), "lacks tokens or blocks"),
        (ScheduledChunk([], 0, [0], 0), "lacks tokens or blocks"),
    ],
)
def test_an_impossible_piece_is_a_bug(chunk: ScheduledChunk, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        spoilt(model_of("LLaMA"), 2).run([chunk])


def test_it_is_an_executor_and_says_what_it_has() -> None:
    executor = TorchExecutor(model_of("LLaMA"), num_blocks=3)
    assert isinstance(executor, Executor)
    assert (
        executor.vocab_size,
        executor.context_length,
        executor.num_blocks,
        executor.block_size,
    ) == (50, 32, 3, 16)
    assert list(executor.adapters) == []
    assert isinstance(executor.run([ScheduledChunk([4], 0, [2], 1)]), StepOutput)
