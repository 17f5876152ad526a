"""Checkpoints of several ranks: resumed by any number of them, whole or not there at all."""

import json
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_pool import RankPool, train_alone, train_run, untimed
from safetensors import safe_open

from puna.errors import TrainingError
from puna.training.checkpoint import SHARDS, Progress, checkpoints, optimizer_tensors
from puna.training.distributed import Ranks, whole
from puna.training.optimizer import build_optimizers
from puna.training.recipe import Recipe, read_recipe
from puna.training.run_inputs import RunInputs
from puna.training.sharded_checkpoint import ShardedCheckpoints, load
from puna.training.weight_sharding import build_model

STEPS = ("train.steps=9", "train.validate_every=3", "train.log_every=1", "train.checkpoint_every=3")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as processes:
        yield processes


@pytest.mark.parametrize(
    "overrides",
    [("optimizer.name=muon",), ("optimizer.name=muon", "train.shards=all")],
    ids=["replicated", "sharded"],
)
def test_a_run_goes_on_with_any_number_of_ranks(
    overrides: tuple[str, ...],
    pool: RankPool,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
) -> None:
    train_alone(tiny_recipe_file, tmp_path / "alone", *STEPS, *overrides)
    run = tmp_path / "run"
    arguments = (tiny_recipe_file, run, *STEPS, *overrides)
    assert pool.run(2, _part, 2, *arguments) == [True, True]
    assert set(checkpoints(run)) == {2}
    assert pool.run(4, _part, 5, *arguments) == [True] * 4
    assert train_alone(*arguments)  # one process ends what four have stopped
    for ours, theirs in zip(untimed(run), untimed(tmp_path / "alone"), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=2e-4)
    assert list(range(1, 10)) == [
        record["step"] for record in untimed(run) if "gradient_norm" in record
    ]


def _part(ranks: Ranks, until: int, recipe: Path, run: Path, *overrides: str) -> bool:
    train_run(ranks, recipe, run, *overrides, until=until)
    return True


def _state(ranks: Ranks, folder: Path, recipe: Recipe) -> dict[str, list[float]]:
    model = build_model(recipe, ranks, CPU, "float32")
    optimizers = build_optimizers(model, recipe.optimizer, ranks=ranks)
    load(folder, model, optimizers, ranks)
    state = dict(model.named_parameters()) | optimizer_tensors(model, optimizers)
    return {name: whole(value.detach()).flatten().tolist() for name, value in state.items()}


def _saved(ranks: Ranks, run: Path, recipe: Recipe) -> dict[str, list[float]]:
    """The state as it was when saving began; it is changed while the files are written."""
    model = build_model(recipe, ranks, CPU, "float32")
    optimizers = build_optimizers(model, recipe.optimizer, ranks=ranks)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.grad = torch.zeros_like(weight)
        torch.distributed.barrier()
        weight.grad.add_(noise if recipe.train.shards == 1 else _cut(noise, weight))
    optimizers.step(1.0)
    writer = ShardedCheckpoints(run, ranks)
    state = dict(model.named_parameters()) | optimizer_tensors(model, optimizers)
    found = {name: whole(value.detach()).flatten().tolist() for name, value in state.items()}
    writer.save(model, optimizers, Progress(step=1))
    optimizers.step(1.0)
    assert writer.finished(wait=True) == run / "checkpoints" / "step-00000001"
    assert writer.finished() is None
    return found


def _cut(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    from puna.model.init import fill

    found = torch.empty_like(like)
    fill(found, values)
    return found


@pytest.mark.parametrize("shards", ["1", "all"])
def test_the_state_that_was_saved_is_loaded_by_any_number_of_ranks(
    shards: str, pool: RankPool, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(tiny_recipe_file, ["optimizer.name=muon", f"train.shards={shards}"])
    saved, other = pool.run(2, _saved, tmp_path, recipe)
    assert saved == other
    folder = tmp_path / "checkpoints" / "step-00000001"
    assert len(saved) > 20
    for size in (1, 2, 4):
        for loaded in pool.run(size, _state, folder, recipe):
            assert loaded == saved
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {
        ".json",
        ".safetensors",
    }
    assert len(list((folder / SHARDS).iterdir())) == 2


def _without_room(ranks: Ranks, run: Path, recipe: Recipe, full: int) -> str:
    """What a rank says of a checkpoint of which one cannot write its part."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = build_model(recipe, ranks, CPU, "float32")
    writer = ShardedCheckpoints(run, ranks)
    if ranks.rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        writer.save(model, build_optimizers(model, recipe.optimizer), Progress(step=1))
        writer.finished(wait=True)
    except TrainingError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return "no error"


def test_a_full_disk_of_one_rank_is_named_and_leaves_no_checkpoint(
    pool: RankPool, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(tiny_recipe_file, ["train.shards=all"])
    for said in pool.run(2, _without_room, tmp_path, recipe, 1):
        assert "checkpoint step 1 could not be written: rank 1: " in said
        assert "File too large" in said
    assert checkpoints(tmp_path) == {}


def _stuck(ranks: Ranks, run: Path, recipe: Recipe) -> tuple[str, float]:
    """What a rank says of a checkpoint whose writing hangs on rank 1, and after how long."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    own, release = HuggingFaceStorageWriter.write_data, threading.Event()

    def hang(self: Any, *arguments: Any) -> Any:
        release.wait(20)
        return own(self, *arguments)

    if ranks.rank == 1:
        HuggingFaceStorageWriter.write_data = hang
    model = build_model(recipe, ranks, CPU, "float32")
    writer = ShardedCheckpoints(run, ranks)
    begin = time.monotonic()
    try:
        writer.save(model, build_optimizers(model, recipe.optimizer), Progress(step=1))
        while writer.finished() is None:  # as a run asks after every step
            time.sleep(0.01)
    except TrainingError as error:
        return str(error), time.monotonic() - begin
    finally:
        release.set()
        HuggingFaceStorageWriter.write_data = own
    return "no error", 0.0


def test_a_disk_that_hangs_ends_in_an_error(
    pool: RankPool, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(tiny_recipe_file, [])
    for said, seconds in pool.run(2, _stuck, tmp_path, recipe, timeout=3):
        assert "checkpoint step 1" in said
        assert "was not written within 3 s" in said or "could not be written" in said
        assert 2 < seconds < 15
    assert checkpoints(tmp_path) == {}


def test_a_damaged_shard_is_named(pool: RankPool, tiny_recipe_file: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny_recipe_file, ["train.shards=all"])
    pool.run(2, _saved, tmp_path, recipe)
    folder = tmp_path / "checkpoints" / "step-00000001"
    shard = sorted((folder / SHARDS).iterdir())[1]
    with safe_open(shard, "pt") as file:
        assert "DCP_SHARDING_INFO" in file.metadata()
    assert json.loads((folder / "training.json").read_text())["step"] == 1
    shard.write_bytes(shard.read_bytes()[:100])
    model = build_model(recipe, Ranks(), CPU, "float32")
    with pytest.raises(TrainingError, match=r"cannot be read .* delete it to resume"):
        load(folder, model, build_optimizers(model, recipe.optimizer), Ranks())
