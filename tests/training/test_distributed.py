"""Several processes that train one model: what one alone would have trained."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rank_pool import RankPool, train_alone, train_run
from said import said
from torch.distributed import TCPStore

from puna.errors import ConfigError
from puna.nn.loss import IGNORE
from puna.training import distributed
from puna.training.distributed import ALONE, Ranks
from puna.training.parallel_layout import micro_batches
from puna.training.recipe import read_recipe
from puna.training.run_inputs import RunInputs
from puna.training.trainer import Trainer
from puna.workflow.run_data import open_data


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as processes:
        yield processes


def assert_agree(log: list[dict[str, Any]], alone: list[dict[str, Any]]) -> None:
    """Both logs have the same records, and numbers that agree to rounding."""
    assert isinstance(log, list), log
    assert len(alone) > 3
    assert [record.keys() for record in log] == [record.keys() for record in alone]
    for ours, theirs in zip(log, alone, strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=2e-4)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.name=adamw",),
        ("optimizer.name=muon", "train.isa=torch", "train.micro_batch_size=1"),
        ("optimizer.name=sgd", "train.batch_size=6", "train.micro_batch_size=2"),
        ("optimizer.name=muon", "train.shards=all", "train.batch_size=6"),
        ("optimizer.name=adamw", "train.shards=2", "train.activation_checkpointing=true"),
    ],
    ids=["adamw", "muon on torch", "sgd, uneven", "muon, sharded", "adamw, sharded in pairs"],
)
def test_any_number_of_ranks_logs_what_one_does(
    size: int,
    overrides: tuple[str, ...],
    pool: RankPool,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
) -> None:
    overrides = (*overrides, "train.steps=10", "train.validate_every=5", "train.log_every=1")
    alone = train_alone(tiny_recipe_file, tmp_path / "alone", *overrides, "train.shards=1")
    log, *others = pool.run(size, train_run, tiny_recipe_file, tmp_path / "run", *overrides)
    assert_agree(log, alone)
    assert others == [[]] * (size - 1)


def _trained_whole(ranks: Ranks, recipe: Path, run: Path, *overrides: str) -> list[int] | None:
    """The ids that the first rank's model finds likeliest once the others have done their part."""
    resolved = read_recipe(recipe, [f"run={run}", *overrides])
    trainer = Trainer(resolved, run, open_data(resolved, ranks).inputs, ranks=ranks)
    trainer.start(resume=False)
    assert trainer.train()
    if not ranks.is_first:
        return None
    ids = torch.arange(32).view(1, 32)
    found: list[int] = trainer.model(ids).argmax(-1).flatten().tolist()
    return found


def test_the_trained_model_is_whole_on_the_first_rank(
    pool: RankPool, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    """A validation leaves weights gathered: those that it left so were once taken for all."""
    overrides = ("train.steps=6", "train.validate_every=3", "optimizer.name=adamw")
    arguments = (tiny_recipe_file, tmp_path / "run", *overrides, "train.shards=all")
    found, none = pool.run(2, _trained_whole, *arguments)
    alone = _trained_whole(ALONE, tiny_recipe_file, tmp_path / "alone", *overrides)
    assert (found, none) == (alone, None)


def test_weights_that_are_gathered_in_bfloat16_train_as_those_that_are_cast(
    pool: RankPool, tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    overrides = ("train.steps=10", "train.log_every=1", "train.precision=bfloat16")
    alone = train_alone(tiny_recipe_file, tmp_path / "alone", *overrides, "train.isa=torch")
    sharded = (tiny_recipe_file, tmp_path / "run", *overrides, "train.shards=all")
    log, _ = pool.run(2, train_run, *sharded)
    assert [record["loss"] for record in log] == pytest.approx(
        [record["loss"] for record in alone], rel=5e-3
    )


def _started_again(ranks: Ranks) -> tuple[str, float]:
    """What rank 0 says at this start, and the last rank."""
    return ranks.on_first("work", lambda: os.urandom(8).hex()), ranks.largest(ranks.rank)


def test_a_start_knows_nothing_of_the_one_before(pool: RankPool) -> None:
    """torchrun's store outlives a start: addresses and answers of dead processes stay in it."""
    store = TCPStore("localhost", 0, is_master=True)
    environment = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    said = []
    for size in (2, 2, 4):
        first, *others = pool.run(size, _started_again, **environment)
        assert others == [first] * (size - 1)
        assert first[1] == size - 1
        said.append(first[0])
    assert len({*said}) == 3


def _sums(ranks: Ranks) -> tuple[Any, ...]:
    weight = torch.nn.Linear(3, 2)
    for parameter in weight.parameters():
        parameter.grad = torch.full_like(parameter, 2.0**ranks.rank)
    distributed.BUCKET_BYTES = 1  # a bucket for each
    ranks.sum_gradients(weight)
    gradients = [parameter.grad.unique().tolist() for parameter in weight.parameters()]
    first = ranks.on_first("work", lambda: {"rank": ranks.rank})
    flags = [ranks.any(ranks.rank == 1), ranks.any(False)]
    return ranks.sum(ranks.rank, 2.0**53), ranks.largest(-ranks.rank), flags, gradients, first


def test_sums_decisions_and_gradients_are_those_of_all_ranks(pool: RankPool) -> None:
    expected = ((6.0, 2.0**55), 0.0, [True, False], [[15.0], [15.0]], {"rank": 0})
    assert pool.run(4, _sums) == [expected] * 4


def test_a_process_alone_answers_itself() -> None:
    assert ALONE.sum(3, 0.5) == (3, 0.5)
    assert ALONE.largest(2.0) == 2.0
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert ALONE.on_first("work", lambda: 5) == 5
    ALONE.require_same(data="x")


def _unequal(ranks: Ranks) -> None:
    ranks.require_same(recipe="a", data=f"hash {ranks.rank // 2}")


def test_ranks_with_other_data_are_named(pool: RankPool) -> None:
    same, one, two, three = pool.run(4, _unequal)
    assert same is None
    assert one is None
    assert "TrainingError: rank 2 on" in two
    assert "another data than rank 0" in three


class SilentStore:
    """A store behind a connection that was cut: it neither answers nor raises."""

    def set(self, _name: str, _value: str) -> None:
        time.sleep(60)


def test_a_rank_that_is_cut_off_from_the_store_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "ANSWER_SECONDS", 0.1)
    ranks = Ranks(1, 2, store=cast(Any, SilentStore()))
    begin = time.monotonic()
    said = ranks.explain(RuntimeError("gloo: timed out"))
    assert said.startswith("rank 1: RuntimeError: gloo: timed out; the store of the ranks")
    assert time.monotonic() - begin < 5


def _failing_first(ranks: Ranks) -> None:
    def work() -> None:
        raise FileNotFoundError("no corpus there")

    ranks.on_first("work", work)


def test_the_others_hear_why_the_first_failed(pool: RankPool) -> None:
    first, second = pool.run(2, _failing_first)
    assert first.splitlines()[-1] == "FileNotFoundError: no corpus there"
    assert "TrainingError: rank 0 ended" in second
    assert "no corpus there" in second


def _targets(ranks: Ranks) -> float:
    """The loss of a model whose every target costs its id, with unequal numbers of targets."""
    from puna.training.optimizer import Optimizers
    from puna.training.step import train_step

    ids = torch.tensor([[0, 1, 2, 3]]) if ranks.rank else torch.tensor([[0, IGNORE, IGNORE, 8]])
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(weight.weight)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return weight(batch[:, 1:].clamp(min=0).float().sum().view(1, 1)).sum()

    result = train_step(weight, loss, Optimizers([]), [ids], factor=1.0, clip_norm=1e9, ranks=ranks)
    assert result.gradient_norm == pytest.approx(result.loss)
    return result.loss


def test_the_loss_is_the_mean_over_all_ranks_targets(pool: RankPool) -> None:
    # of (1 + 2 + 3) / 3 and 8 / 1 the mean of means would be 5
    assert pool.run(2, _targets) == pytest.approx([14 / 4] * 2)


@pytest.mark.parametrize(("batch", "micro", "ranks", "number"), [(8, 2, 1, 4), (6, 2, 4, 1)])
def test_every_rank_has_as_many_micro_batches(
    batch: int, micro: int, ranks: int, number: int, tiny_recipe_file: Path
) -> None:
    sizes = [f"train.batch_size={batch}", f"train.micro_batch_size={micro}"]
    recipe = read_recipe(tiny_recipe_file, sizes)
    assert micro_batches(recipe, ranks) == number
    largest = math.ceil(batch / ranks)
    assert max(map(len, torch.tensor_split(torch.zeros(largest), number))) <= micro


def test_an_empty_micro_batch_is_rejected(tiny_recipe_file: Path) -> None:
    recipe = read_recipe(tiny_recipe_file, ["train.batch_size=6", "train.micro_batch_size=1"])
    with pytest.raises(ConfigError, match=said("4 processes cannot share train.batch_size 6")):
        micro_batches(recipe, 4)


def test_one_device_for_all_ranks_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ranks = Ranks(3, 4, local_rank=1)
    assert [ranks.device_name(name) for name in ("auto", "cuda", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(ConfigError, match=said("train.device cuda:0 is one device, but 4")):
        ranks.device_name("cuda:0")
