"""The paged cache against attention's definition, sequence by sequence, wherever blocks lie and
whatever a step mixes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.inference.kv_cache import COPIED_BYTES, PADDING_BYTES, PagedCache, Run
from puna.model.config import ModelConfig
from puna.nn import alibi_slopes, attention_mask, softmax_attention
from puna.nn.attention import KeyValueCache

SHARING = {"multi-head": (4, 4), "grouped": (6, 2), "multi-query": (4, 1)}
SEEN = {
    "all": {},
    "window": {"sliding_window": 5},
    "slopes": {"position": "alibi"},
    "both": {"sliding_window": 6, "position": "alibi"},
}


def shape(heads: tuple[int, int] = (4, 2), **changes: Any) -> ModelConfig:
    return ModelConfig(
        vocab_size=10,
        width=32,
        num_layers=1,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_width=8,
        context_length=64,
        **changes,
    )


def spoilt(config: ModelConfig, num_blocks: int, block_size: int, **options: Any) -> PagedCache:
    """A cache whose memory holds what never may reach a result."""
    cache = PagedCache(config, num_blocks, block_size, **options)
    for memory in (*cache.keys, *cache.values):
        memory.fill_(torch.nan)
    return cache


@dataclass
class Text:
    """One sequence: queries, keys and values of all its positions, [heads, length, C], its blocks,
    and how far it has come.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    blocks: list[int]
    done: int = 0
    heads: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, config: ModelConfig, length: int, blocks: list[int]) -> "Text":
        heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        return cls(*(torch.randn(number, length, config.head_width) for number in heads), blocks)

    def expected(self, config: ModelConfig) -> Tensor:
        """By the definition, all at once."""
        length = self.q.shape[1]
        slopes = alibi_slopes(config.num_heads) if config.position == "alibi" else None
        mask = attention_mask(length, length, window=config.sliding_window, slopes=slopes)
        return softmax_attention(self.q[None], self.k[None], self.v[None], mask)[0]


def advance(cache: PagedCache, texts: Sequence[Text], counts: Sequence[int]) -> None:
    """One step that gives each of these texts so many more tokens."""
    runs = [Run(text.done, count, text.blocks) for text, count in zip(texts, counts, strict=True)]
    new = [
        torch.cat(
            [
                whole[:, text.done : text.done + count]
                for text, whole, count in zip(texts, wholes, counts, strict=True)
            ],
            1,
        )
        for wholes in (
            [text.q for text in texts],
            [text.k for text in texts],
            [text.v for text in texts],
        )
    ]
    (layer,) = cache.step(runs)
    heads = layer.attend(*(tensor[None] for tensor in new))[0]
    for text, count, own in zip(texts, counts, heads.split(list(counts), dim=1), strict=True):
        text.heads.append(own)
        text.done += count


def assert_by_definition(config: ModelConfig, texts: Sequence[Text]) -> None:
    for text in texts:
        torch.testing.assert_close(
            torch.cat(text.heads, 1), text.expected(config)[:, : text.done], rtol=1e-5, atol=1e-5
        )


def scattered(
    rng: random.Random, lengths: Sequence[int], block_size: int
) -> tuple[list[list[int]], int]:
    """Blocks for sequences of these lengths, in any order with gaps between them, and how many the
    memory has.
    """
    needed = [-(-length // block_size) for length in lengths]
    numbers = rng.sample(range(2 * sum(needed)), sum(needed))
    return [[numbers.pop() for _ in range(count)] for count in needed], 2 * sum(needed)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("sharing", SHARING)
@settings(max_examples=25)
@given(data=st.data())
def test_any_mixture_of_runs_is_attention_by_its_definition(
    sharing: str, seen: str, data: st.DataObject
) -> None:
    """Prefills in chunks, single tokens and drafts of several sequences side by side, in memory
    full of NaN.
    """
    config, block_size = (
        shape(SHARING[sharing], **SEEN[seen]),
        data.draw(st.sampled_from([1, 3, 4, 16]), "block size"),
    )
    rng = random.Random(data.draw(st.integers(0, 2**31), "seed"))
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5), "lengths")
    tables, num_blocks = scattered(rng, lengths, block_size)
    cache = spoilt(config, num_blocks, block_size, copies=data.draw(st.booleans(), "copies"))
    texts = [
        Text.of(config, length, blocks) for length, blocks in zip(lengths, tables, strict=True)
    ]
    while left := [text for text in texts if text.done < text.q.shape[1]]:
        now = rng.sample(left, rng.randint(1, len(left)))
        advance(
            cache,
            now,
            [min(rng.choice((1, 1, 1, 4, 40)), text.q.shape[1] - text.done) for text in now],
        )
    assert_by_definition(config, texts)


@pytest.mark.parametrize("seen", SEEN)
def test_decodes_of_many_lengths_are_attention_by_its_definition(seen: str) -> None:
    """Sixty sequences of 1 to 60 tokens, each one token further: enough for several groups with
    padding in each.
    """
    config = shape(**SEEN[seen])
    lengths = list(range(2, 62))
    tables, num_blocks = scattered(random.Random(0), lengths, 4)
    cache = spoilt(config, num_blocks, 4)
    texts = [
        Text.of(config, length, blocks) for length, blocks in zip(lengths, tables, strict=True)
    ]
    for text in texts:
        advance(cache, [text], [text.q.shape[1] - 1])
    advance(cache, texts, [1] * 60)
    assert_by_definition(config, texts)


def prefix_of(one: Text, other: Text, length: int, block_size: int) -> None:
    """Let the first begin as the second does, in the second's blocks."""
    for mine, theirs in ((one.k, other.k), (one.v, other.v), (one.q, other.q)):
        mine[:, :length] = theirs[:, :length]
    one.blocks[: length // block_size] = other.blocks[: length // block_size]


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_run_reads_what_another_one_writes_in_the_same_step(
    order: tuple[int, ...], seen: str
) -> None:
    """Two texts begin where the first will be after this very step, whichever stands first in
    it.
    """
    config = shape(**SEEN[seen])
    tables, num_blocks = scattered(random.Random(1), (20, 20, 20), 4)
    cache = spoilt(config, num_blocks, 4)
    texts = [Text.of(config, 20, blocks) for blocks in tables]
    for text, cached in zip(texts[1:], (8, 12), strict=True):
        prefix_of(text, texts[0], cached, 4)
        text.heads, text.done = [text.expected(config)[:, :cached]], cached
    advance(cache, [texts[index] for index in order], [(12, 5, 1)[index] for index in order])
    advance(cache, texts, [1, 1, 1])
    assert_by_definition(config, texts)


def test_what_stands_before_the_window_is_not_read() -> None:
    """Its blocks may hold anything by now; the oldest that is read has but some positions in the
    window.
    """
    config = shape(sliding_window=6)
    cache, text = spoilt(config, 8, 4), Text.of(config, 32, [5, 2, 7, 0, 1, 3, 6, 4])
    advance(cache, [text], [25])
    # position 25 sees 20 to 25, the first of which is the first of its block
    text.blocks[:5] = [99] * 5
    advance(cache, [text], [1])
    assert_by_definition(config, [text])


def test_a_step_changes_the_slots_of_its_tokens_and_no_other() -> None:
    config = shape()
    cache, text = spoilt(config, 5, 4), Text.of(config, 10, [3, 0, 4])
    advance(cache, [text], [6])
    kept = ~torch.ones(20).bool()
    kept[[12, 13, 14, 15, 0, 1]] = True
    for memory, whole in ((cache.keys[0], text.k), (cache.values[0], text.v)):
        slots = memory.flatten(0, 1)
        assert torch.equal(slots.isfinite().flatten(1).all(1), kept)
        assert torch.equal(slots[[12, 13, 14, 15, 0, 1]], whole[:, :6].transpose(0, 1))


def test_a_draft_that_was_wrong_is_written_over() -> None:
    config = shape()
    cache, wrong, text = (
        spoilt(config, 6, 4),
        Text.of(config, 14, [3, 5, 0, 4]),
        Text.of(config, 14, [3, 5, 0, 4]),
    )
    prefix_of(wrong, text, 7, 4)
    advance(cache, [wrong], [6])
    advance(cache, [wrong], [5])  # the sixth position is right, the four after it are drafts
    text.heads, text.done = [torch.cat(wrong.heads, 1)[:, :7]], 7
    advance(cache, [text], [1])
    advance(cache, [text], [6])
    assert_by_definition(config, [text])


@pytest.mark.parametrize(
    ("run", "first"),
    [(Run(37, 1, [4, 5, 6]), 64), (Run(0, 9, [7, 3]), 112), (Run(16, 20, [1, 2, 3]), 16)],
    ids=["decode", "prefill", "chunk"],
)
def test_one_sequence_in_one_piece_is_read_where_it_lies(run: Run, first: int) -> None:
    def read(run: Run, **options: bool) -> slice | Tensor:
        return PagedCache(shape(), 10, 16, **options).step([run])[0].groups[0].read

    assert read(run) == slice(first, first + run.end)
    assert isinstance(read(run, copies=True), Tensor)
    assert isinstance(read(Run(run.start + 9, run.count, [*run.blocks[::-1], 0])), Tensor)


@pytest.mark.parametrize(
    ("changes", "runs", "masked"),
    [
        ({}, [Run(37, 1, [4, 5, 6])], False),
        ({}, [Run(0, 9, [4])], False),
        ({}, [Run(5, 1, [4]), Run(5, 1, [3])], False),
        ({}, [Run(5, 1, [4]), Run(4, 1, [3])], True),
        ({}, [Run(16, 20, [1, 2, 3])], True),
        ({"sliding_window": 9}, [Run(0, 9, [4])], False),
        ({"sliding_window": 9}, [Run(0, 10, [4])], True),
        ({"sliding_window": 9}, [Run(24, 1, [4, 5])], False),
        ({"sliding_window": 9}, [Run(25, 1, [4, 5])], True),
        ({"position": "alibi"}, [Run(0, 9, [4])], True),
        ({"position": "alibi"}, [Run(37, 1, [4, 5, 6])], True),
    ],
)
def test_there_is_a_mask_where_the_causal_rule_does_not_say_it_all(
    changes: dict[str, Any], runs: list[Run], masked: bool
) -> None:
    (group,) = PagedCache(shape(**changes), 10, 16).step(runs)[0].groups
    assert (group.mask is not None) == masked


def groups_of(lengths: Sequence[int], config: ModelConfig, block_size: int = 16) -> list[list[int]]:
    """The lengths that one step of single tokens attends to together."""
    blocks = [0] * -(-max(lengths) // block_size)
    cache = PagedCache(config, 1, block_size, "meta")
    groups = cache.step([Run(length - 1, 1, blocks) for length in lengths])[0].groups
    return [list(lengths[group.tokens]) for group in groups]


@settings(max_examples=200)
@given(lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=60).map(sorted))
def test_groups_are_bounded_in_copies_and_padding(lengths: list[int]) -> None:
    config = shape((4, 4))
    token_bytes = 4 * 4 * 8
    groups = groups_of(lengths, config)
    assert [length for group in groups for length in group] == lengths
    for group in groups:
        padded = len(group) * max(group) * token_bytes
        assert padded <= COPIED_BYTES or len(group) == 1
        assert padded - sum(group) * token_bytes <= PADDING_BYTES


def test_equal_lengths_share_a_call_until_their_copies_are_large() -> None:
    config = shape((4, 4))
    assert groups_of([100] * 60, config) == [[100] * 60]
    together = COPIED_BYTES // (4 * 4 * 8 * 1000)
    assert [len(group) for group in groups_of([1000] * (2 * together + 1), config)] == [
        together,
        together,
        1,
    ]


def test_half_precision_stays_near_and_in_half_precision() -> None:
    for changes in SEEN.values():
        config = shape(**changes)
        texts = [
            Text.of(config, length, blocks)
            for length, blocks in ((17, [0, 3, 4, 8, 7]), (9, [2, 1, 5]))
        ]
        exact = [text.expected(config) for text in texts]
        for text in texts:
            text.q, text.k, text.v = text.q.bfloat16(), text.k.bfloat16(), text.v.bfloat16()
        cache = spoilt(config, 9, 4, dtype=torch.bfloat16)
        for counts in ((9, 8), (1, 1), (7, 0)):
            advance(cache, texts[: 2 if counts[1] else 1], [count for count in counts if count])
        for text, reference in zip(texts, exact, strict=True):
            heads = torch.cat(text.heads, 1)
            assert heads.dtype == torch.bfloat16
            torch.testing.assert_close(heads.float(), reference, rtol=0, atol=0.04)


def test_a_layer_is_a_cache_as_attention_knows_it() -> None:
    layers = PagedCache(shape(), 1, 4).step([Run(0, 1, [0])])
    assert all(isinstance(layer, KeyValueCache) for layer in layers)


@pytest.mark.parametrize("run", [Run(0, 9, [0, 1]), Run(3, 0, [0, 1]), Run(-1, 2, [0, 1])], ids=str)
def test_a_run_without_blocks_or_tokens_is_a_bug(run: Run) -> None:
    with pytest.raises(AssertionError, match="lacks tokens or blocks"):
        PagedCache(shape(), 2, 4).step([run])
