"""Batches are the same tokens in the same order for any number of ranks and after any restart."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_texts import make_texts
from said import said

from puna.data.loader import Loader
from puna.data.prepare import prepare
from puna.data.shards import TokenStream, open_split
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer

WEIGHTS = {"a": 0.7, "b": 0.3}
CONTEXT = 32


@pytest.fixture(scope="module")
def streams(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TokenStream]:
    return {
        name: make_stream(tmp_path_factory.mktemp(name), tokenizer, seed)
        for seed, name in enumerate(WEIGHTS)
    }


def make_stream(folder: Path, tokenizer: Tokenizer, seed: int) -> TokenStream:
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in make_texts(25, seed=seed))
    )
    prepare(
        [str(folder / "a.jsonl")],
        tokenizer,
        folder / "out",
        validation_fraction=0,
        shard_tokens=1_000,
    )
    return open_split(folder / "out", "train")


def make_loader(
    streams: dict[str, TokenStream],
    rank: int = 0,
    world_size: int = 1,
    seed: int = 5,
    batch_size: int = 8,
) -> Loader:
    return Loader(
        streams,
        WEIGHTS,
        context_length=CONTEXT,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_order_is_that_of_one_rank(world_size: int, streams: dict[str, TokenStream]) -> None:
    alone = make_loader(streams)
    ranks = [make_loader(streams, rank, world_size) for rank in range(world_size)]
    for step in (0, 1, 7, 10**6):
        together = np.concatenate([loader.batch(step) for loader in ranks])
        np.testing.assert_array_equal(together, alone.batch(step))


@pytest.mark.parametrize("world_size", [3, 5])
def test_uneven_shares_differ_by_one_window(
    world_size: int, streams: dict[str, TokenStream]
) -> None:
    ranks = [make_loader(streams, rank, world_size, batch_size=7) for rank in range(world_size)]
    batches = [loader.batch(3) for loader in ranks]
    np.testing.assert_array_equal(
        np.concatenate(batches), make_loader(streams, batch_size=7).batch(3)
    )
    assert {len(batch) for batch in batches} == {7 // world_size, 7 // world_size + 1}


def test_a_restart_continues_exactly(streams: dict[str, TokenStream]) -> None:
    batches = [make_loader(streams).batch(step) for step in range(20)]
    for start in (1, 9, 19):
        restarted = make_loader(streams)
        for step in range(start, 20):
            np.testing.assert_array_equal(restarted.batch(step), batches[step])


def test_rows_are_the_windows_that_the_mixture_names(streams: dict[str, TokenStream]) -> None:
    loader = make_loader(streams)
    batch = loader.batch(3)
    assert batch.shape == (8, CONTEXT + 1)
    assert batch.dtype == np.int64
    for row, ids in enumerate(batch):
        sample = loader.mixture.sample(3 * 8 + row)
        np.testing.assert_array_equal(
            ids, streams[sample.source].read(sample.window * CONTEXT, CONTEXT + 1)
        )


def test_an_epoch_has_every_target_once(streams: dict[str, TokenStream]) -> None:
    stream = streams["a"]
    loader = Loader({"a": stream}, {"a": 1}, context_length=CONTEXT, batch_size=1, seed=0)
    count = loader.mixture.num_windows["a"]
    targets = np.concatenate([loader.batch(step)[0, 1:] for step in range(count)])
    expected = stream.read(1, count * CONTEXT)
    np.testing.assert_array_equal(np.sort(targets), np.sort(expected))
    assert stream.num_tokens - 1 - len(expected) < CONTEXT


def test_another_seed_is_another_order(streams: dict[str, TokenStream]) -> None:
    assert not np.array_equal(make_loader(streams).batch(0), make_loader(streams, seed=6).batch(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "world_size": 4}, "rank 0 of 4 ... share of 3 windows"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"batch_size": 0}, "batch ... 0"),
        ({"context_length": 0}, "0 tokens"),
        (
            {"context_length": 10**6},
            "a ... tokens ... window of 1000000 + 1",
        ),
        ({"weights": {"a": 1}}, "['a']"),
    ],
)
def test_bad_options_are_rejected(
    options: dict[str, object], message: str, streams: dict[str, TokenStream]
) -> None:
    values = {"weights": WEIGHTS, "context_length": CONTEXT, "batch_size": 8, "seed": 0} | options
    with pytest.raises(DataError, match=said(message)):
        Loader(streams, **values)


def test_sources_of_different_tokenizers_are_rejected(
    streams: dict[str, TokenStream], tmp_path: Path
) -> None:
    other = make_stream(tmp_path, Tokenizer.train(make_texts(50, seed=98), 290), seed=3)
    with pytest.raises(DataError, match="different tokenizers"):
        Loader(
            {"a": streams["a"], "b": other}, WEIGHTS, context_length=CONTEXT, batch_size=8, seed=0
        )
