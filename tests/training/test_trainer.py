"""A run from its first step to its last: what it logs, keeps, rejects, and goes on from."""

import json
import math
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from said import said

from puna.data.shards import open_split
from puna.errors import ConfigError, ModelFolderError, PunaError, TrainingError
from puna.model.accounting import training_flops_per_token
from puna.model.transformer import Transformer
from puna.model.weights import read_model
from puna.run_log import read_run_log
from puna.tokenizer.tokenizer import Tokenizer
from puna.training import step_memory
from puna.training import trainer as trainer_module
from puna.training.checkpoint import checkpoints, optimizer_tensors
from puna.training.run_inputs import RunInputs, Validation
from puna.training.schedule import learning_rate_factor
from puna.training.stored_recipe import read_changes, read_stored_recipe, recipe_hash
from puna.training.trainer import MAX_NON_FINITE_STEPS, Trainer

Make = Callable[..., Trainer]


def untimed(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    timed = ("seconds", "tokens_per_second", "mfu", "matmul_peak_gflops")
    return [
        {key: value for key, value in record.items() if key not in timed}
        for record in read_run_log(run / "metrics.jsonl")
    ]


def assert_same(one: Trainer, two: Trainer) -> None:
    """Weights, optimizer state and log are equal, bit for bit."""
    for tensors in (
        lambda t: t.model.state_dict(),
        lambda t: optimizer_tensors(t.model, t.optimizers),
    ):
        first, second = tensors(one), tensors(two)
        assert first.keys() == second.keys()
        assert [name for name in first if not first[name].equal(second[name])] == []
    assert untimed(one.run) == untimed(two.run)


PINNED = [
    5.700531,
    5.611758,
    5.426199,
    5.133134,
    4.890192,
    4.522241,
    4.366955,
    4.204580,
    3.979502,
    4.069803,
]


def test_the_loss_curve_is_pinned(trainer: Make, tiny_recipe_file: Path, tmp_path: Path) -> None:
    """Ten steps in float32 with fixed data and seed. A change that moves these numbers changes
    training, and owes curves.

    Not bit for bit: processors and BLAS libraries add in different orders, and ten steps of Adam
    magnify the last digit.
    """
    text = open_split(tiny_recipe_file.parent / "data", "train")

    # in the text's own order: the loader's depends on the folder's name
    def batch(step: int) -> NDArray[np.int64]:
        return np.stack([text.read(32 * row, 33) for row in range(4 * step, 4 * step + 4)])

    run = trainer(
        tmp_path / "run",
        "train.log_every=1",
        "train.steps=10",
        "optimizer.schedule=linear",
        batch=batch,
    )
    assert run.train()
    losses = [record["loss"] for record in untimed(run.run) if record["kind"] == "train"]
    assert losses == pytest.approx(PINNED, rel=2e-4)


def test_an_untrained_model_knows_nothing(trainer: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", "train.log_every=1")
    run.train(until=1)
    assert untimed(run.run)[0]["loss"] == pytest.approx(math.log(300), rel=0.02)


def test_the_log_says_what_was_done(trainer: Make, tiny_inputs: RunInputs, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    assert run.train()
    records = read_run_log(run.run / "metrics.jsonl")
    steps = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in steps] == list(range(5, 45, 5))
    for record in steps:
        factor = learning_rate_factor(
            record["step"] - 1, schedule="cosine", steps=40, warmup=4, final_factor=0.1
        )
        assert record["learning_rate"] == pytest.approx(0.01 * factor)
        assert record["tokens"] == record["step"] * 128
        assert record["bits_per_byte"] == pytest.approx(
            record["loss"] / math.log(2) / tiny_inputs.bytes_per_token
        )
        assert record["applied"] is True
        flops = training_flops_per_token(run.recipe.model, 32)
        assert record["matmul_peak_gflops"] == 100
        assert record["mfu"] == pytest.approx(record["tokens_per_second"] * flops / 1e11)
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [20, 40]
    again = tiny_inputs.validate(run.model)
    assert again.loss == pytest.approx(validations[-1]["loss"])
    assert {(record["targets"], record["all_targets"]) for record in validations} == {
        (again.targets, again.all_targets)
    }
    assert again.targets == 400 // 32 * 32
    assert not run.model.training


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("stops", [(13,), (0, 20, 21)])
def test_stopped_and_resumed_equals_one_piece(
    name: str, stops: tuple[int, ...], trainer: Make, tmp_path: Path
) -> None:
    whole = trainer(tmp_path / "whole", f"optimizer.name={name}")
    assert whole.train()
    parted = trainer(tmp_path / "parted", f"optimizer.name={name}")
    for stop in stops:
        here = parted.progress
        assert not parted.train(stop=lambda: parted.progress.step >= stop)  # noqa: B023
        assert parted.progress.step == stop >= here.step
        parted = trainer(tmp_path / "parted", f"optimizer.name={name}", resume=True)
        assert parted.progress.step == stop
    assert parted.train()
    assert_same(whole, parted)


def test_a_checkpoint_is_a_model_folder_without_pickles(trainer: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    run.train(until=3)
    path = checkpoints(run.run)[3]
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}
    weights = read_model(path).state_dict()
    assert all(weights[name].equal(value) for name, value in run.model.state_dict().items())
    said = json.loads((path / "puna.json").read_text())
    assert (said["step"], said["tokens"], said["data_hash"]) == (3, 3 * 128, run.inputs.data_hash)
    assert said["tokenizer_hash"] == Tokenizer.load(path).hash
    assert (said["context_length"], said["mask_documents"]) == (32, False)


def test_interrupted_while_validating_the_look_is_made_up_for(
    trainer: Make, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    """The checkpoint is saved before validation, so a resume begins after a step whose one is
    missing from the log.
    """

    def interrupted(model: Transformer) -> Validation:
        raise KeyboardInterrupt

    whole = trainer(tmp_path / "whole")
    whole.train()
    parted = trainer(tmp_path / "parted", validate=interrupted)
    with pytest.raises(KeyboardInterrupt):
        parted.train()
    assert list(checkpoints(parted.run)) == [10, 20]
    parted = trainer(tmp_path / "parted", resume=True)
    parted.train()
    assert_same(whole, parted)
    assert (whole.run / "best.json").read_bytes() == (parted.run / "best.json").read_bytes()


def test_killed_before_its_first_checkpoint_a_run_begins_again(
    trainer: Make, tmp_path: Path
) -> None:
    trainer(tmp_path / "run")
    assert trainer(tmp_path / "run", resume=True).progress.step == 0


def test_the_newest_and_the_best_are_kept(trainer: Make, tmp_path: Path) -> None:
    losses = iter([3.0, 2.0, float("nan"), 2.5])
    overrides = ("train.steps=80", "train.keep_last=2")
    run = trainer(
        tmp_path / "run", *overrides, validate=lambda _: Validation(next(losses), 1.0, 10, 20)
    )
    # what a kill leaves behind
    (run.run / "checkpoints" / ".step-00000007.abcd.partial").mkdir(parents=True)
    run.train()
    assert [path.name for path in sorted((run.run / "checkpoints").iterdir())] == [
        "step-00000040",
        "step-00000070",
        "step-00000080",
    ]
    assert json.loads((run.run / "best.json").read_text())["step"] == 40


def test_a_folder_that_holds_a_run_is_rejected(trainer: Make, tmp_path: Path) -> None:
    trainer(tmp_path / "run")
    with pytest.raises(TrainingError, match=said("a run ... --resume ... run=")):
        trainer(tmp_path / "run")
    with pytest.raises(TrainingError, match=said("no run ... leave out --resume")):
        trainer(tmp_path / "other", resume=True)


def test_a_changed_recipe_is_rejected_with_its_keys(trainer: Make, tmp_path: Path) -> None:
    trainer(tmp_path / "run").train(until=2)
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    for others in (("optimizer.weight_decay=0.2",), ("train.batch_size=8", "seed=8")):
        names = ", ".join(sorted(other.partition("=")[0] for other in others))
        with pytest.raises(TrainingError, match=said(f"other values of {names}: ... run=")):
            trainer(tmp_path / "run", "train.steps=50", *others, resume=True)
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before
    assert read_changes(tmp_path / "run") == []


def test_more_steps_at_a_constant_rate_end_as_in_one_piece(trainer: Make, tmp_path: Path) -> None:
    """The run of 40 steps is finished, and then goes on to 60."""
    constant = "optimizer.schedule=constant"
    whole = trainer(tmp_path / "whole", constant, "train.steps=60")
    assert whole.train()
    assert trainer(tmp_path / "parted", constant).train()
    parted = trainer(tmp_path / "parted", constant, "train.steps=60", resume=True)
    assert parted.train()
    assert_same(whole, parted)


def test_what_a_resume_may_change_is_kept_with_the_run(trainer: Make, tmp_path: Path) -> None:
    trainer(tmp_path / "run").train(until=3)
    overrides = ("train.steps=30", "train.log_every=2", "train.keep_last=5", "train.device=auto")
    run = trainer(tmp_path / "run", *overrides[:-1], resume=True)
    changed = {
        "train.steps": (40, 30), "train.log_every": (5, 2), "train.keep_last": (2, 5)
    }  # fmt: skip
    assert run.changes == changed
    run.train(until=6)
    run = trainer(tmp_path / "run", *overrides, resume=True)
    assert run.changes == {"train.device": ("cpu", "auto")}
    recorded = [
        {"step": 3, "changed": {key: list(pair) for key, pair in changed.items()}},
        {"step": 6, "changed": {"train.device": ["cpu", "auto"]}},
    ]
    assert read_changes(run.run) == recorded
    stored = read_stored_recipe(run.run)
    assert (stored.train.steps, stored.train.log_every, stored.train.device) == (30, 2, "auto")
    written = run.provenance()
    assert written["changes"] == recorded
    assert written["recipe_hash"] == recipe_hash(stored) == recipe_hash(run.recipe)
    assert trainer(tmp_path / "run", *overrides, resume=True).changes == {}
    assert read_changes(run.run) == recorded


def test_fewer_steps_than_are_done_are_rejected(trainer: Make, tmp_path: Path) -> None:
    trainer(tmp_path / "run").train(until=13)
    with pytest.raises(TrainingError, match=said("train.steps 12 ... step 13 ... at least")):
        trainer(tmp_path / "run", "train.steps=12", resume=True)
    assert trainer(tmp_path / "run", "train.steps=13", resume=True).train()


def test_a_run_starts_from_the_weights_of_a_model(trainer: Make, tmp_path: Path) -> None:
    source = trainer(tmp_path / "source")
    source.train(until=10)
    folder = checkpoints(source.run)[10]
    start = (f"train.init_from={folder}", "model.init_std=0.5", "seed=1", "model.context_length=64")
    run = trainer(tmp_path / "run", *start)
    weights = source.model.state_dict()
    assert all(weights[name].equal(value) for name, value in run.model.state_dict().items())
    assert run.progress.step == 0
    assert run.provenance()["init_from"] == str(folder)
    run.train(until=2)
    shutil.rmtree(source.run)
    resumed = trainer(tmp_path / "run", *start, resume=True)
    weights = run.model.state_dict()
    assert all(weights[name].equal(value) for name, value in resumed.model.state_dict().items()), (
        "a run with checkpoints needs the other model no more"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_layers=3", "model.num_layers 2 ... recipe has 3 ... model.num_layers=2"),
        ("model.feed_forward_width=64", "model.feed_forward_width 96 ... 64"),
        ("model.rope_base=5000.0", "model.rope_base 10000.0 ... 5000.0"),
        ("model={norm: layernorm, width: 64}", "model.width 32 ... 64"),
    ],
)
def test_a_model_of_another_shape_is_rejected_with_the_first_key_that_differs(
    override: str, message: str, trainer: Make, tmp_path: Path
) -> None:
    trainer(tmp_path / "source").save()
    folder = checkpoints(tmp_path / "source")[0]
    with pytest.raises(TrainingError, match=said(f"train.init_from {folder} ... {message}")):
        trainer(tmp_path / "run", override, f"train.init_from={folder}")


def test_a_recipe_without_a_model_to_start_from_has_the_hash_that_it_had(
    trainer: Make, tmp_path: Path
) -> None:
    recipe = trainer(tmp_path / "run").recipe
    assert "init_from" not in recipe.model_dump()["train"]
    other = recipe.train.model_copy(update={"init_from": "model"})
    assert recipe_hash(recipe) != recipe_hash(recipe.model_copy(update={"train": other}))


def test_a_moved_run_is_the_same_run(trainer: Make, tmp_path: Path) -> None:
    trainer(tmp_path / "run").train(until=2)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert trainer(tmp_path / "moved", resume=True).progress.step == 2
    assert read_stored_recipe(tmp_path / "moved").run == str(tmp_path / "run")


def test_changed_data_is_rejected(trainer: Make, tmp_path: Path) -> None:
    trainer(tmp_path / "run").train(until=2)
    with pytest.raises(TrainingError, match=said("data ... tokenizer ... changed")):
        trainer(tmp_path / "run", data_hash="another", resume=True)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=said("no run folder ... recipe.yaml")):
        read_stored_recipe(tmp_path)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "training.json", "config.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_serves(
    file: str, damage: str, trainer: Make, tmp_path: Path
) -> None:
    trainer(tmp_path / "run").train(until=13)
    newest = checkpoints(tmp_path / "run")[13]
    if damage == "gone":
        (newest / file).unlink()
    else:
        (newest / file).write_bytes((newest / file).read_bytes()[:-9])
    with pytest.raises(
        TrainingError,
        match=said("step-00000013 ... cannot be read ... delete it"),
    ):
        trainer(tmp_path / "run", resume=True)
    shutil.rmtree(newest)
    assert trainer(tmp_path / "run", resume=True).progress.step == 10


def test_a_full_disk_leaves_the_last_checkpoint(trainer: Make, tmp_path: Path) -> None:
    """Files may not grow beyond 50 kB for a while; the weights take more."""
    run = trainer(tmp_path / "run")
    run.train(until=10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ModelFolderError, match=said("write ... File too large")):
            run.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (run.run / "checkpoints").iterdir()] == ["step-00000010"]
    whole, resumed = trainer(tmp_path / "whole"), trainer(tmp_path / "run", resume=True)
    whole.train()
    resumed.train()
    assert_same(whole, resumed)


def poison(run: Trainer, bad: Callable[[int], bool]) -> None:
    """Make the gradients of the steps (from 0) that are `bad` infinite."""
    weight = run.model.embed_tokens.weight
    weight.register_hook(
        lambda gradient: gradient * torch.inf if bad(run.progress.step) else gradient
    )


def test_steps_without_finite_gradients_are_logged_and_skipped(
    trainer: Make, tmp_path: Path
) -> None:
    run = trainer(tmp_path / "run")
    poison(run, lambda step: step == 2)
    run.train(until=2)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train(until=3)
    assert all(value.equal(before[name]) for name, value in run.model.state_dict().items())
    assert [
        (record["step"], record["applied"], record["gradient_norm"]) for record in untimed(run.run)
    ] == [(3, False, None)]


def test_a_run_gives_up_after_many_in_a_row(trainer: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    poison(run, lambda step: step >= 10)
    with pytest.raises(
        TrainingError,
        match=said(
            f"{MAX_NON_FINITE_STEPS} steps ... step {10 + MAX_NON_FINITE_STEPS} ... lower"
            " optimizer.learning_rate"
        ),
    ):
        run.train()
    assert 10 in checkpoints(run.run) or 20 in checkpoints(run.run)


def test_a_run_goes_on_when_one_between_is_finite(trainer: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    poison(run, lambda step: step % MAX_NON_FINITE_STEPS != 0)
    assert run.train()


@pytest.mark.parametrize(
    ("available", "rejected"), [(100_000, True), (None, False), (10**12, False)]
)
def test_what_does_not_fit_in_memory_is_rejected_before_it_is_made(
    available: int | None,
    rejected: bool,
    trainer: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_memory, "memory_bytes", lambda _: available)
    if not rejected:
        trainer(tmp_path / "run")
        return
    # calling it would fail otherwise
    monkeypatch.setattr(trainer_module, "build_model", None)
    with pytest.raises(
        TrainingError,
        match=said("0.0 GB ... cpu ... 0.0 GB ... lower train.micro_batch_size"),
    ):
        trainer(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there(trainer: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the device 'cuda:99' cannot be used here"):
        trainer(tmp_path / "run", "train.device=cuda:99")
    assert issubclass(ConfigError, PunaError)


def test_observers_hear_of_records_and_checkpoints(trainer: Make, tmp_path: Path) -> None:
    heard: list[str] = []

    class Ears:
        def logged(self, record: dict[str, Any]) -> None:
            heard.append(f"{record['kind']} {record['step']}")

        def saved(self, path: Path) -> None:
            assert (path / "training.json").exists()
            heard.append(path.name)

    run = trainer(tmp_path / "run", "train.steps=12", "train.validate_every=7")
    run.observers = (Ears(),)
    run.train()
    assert heard[:4] == [
        "train 5",
        "step-00000007",
        "validation 7",
        "train 10",
    ], "a step is saved before it is validated"
    assert heard[4:8] == ["step-00000010", "train 12", "step-00000012", "validation 12"]
