"""`puna.train` from Python: recipes in three forms, events, stop and resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puna
from puna.errors import ConfigError, DataError, TrainingError
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs
from puna.workflow.observer import RunObserver
from puna.workflow.training_run import read_summary, resolve_recipe

SHORT = ("train.steps=12", "train.validate_every=6", "train.checkpoint_every=4")


class Events(RunObserver):
    """Keeps the names of all events, in order; `logged` and `saved` also where they happened."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.records: list[dict[str, Any]] = []

    def __getattribute__(self, name: str) -> Any:
        if hasattr(RunObserver, name) and not name.startswith("_"):
            self.names.append(name)
        return super().__getattribute__(name)

    def logged(self, record: dict[str, Any]) -> None:
        self.records.append(record)


def assert_same_log(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    timed = ("seconds", "tokens_per_second", "mfu", "matmul_peak_gflops")
    logs = [[{k: v for k, v in r.items() if k not in timed} for r in log] for log in (one, two)]
    assert logs[0] == logs[1]


@pytest.mark.usefixtures("tiny_inputs")
def test_a_finished_run_is_at_hand_and_on_disk(tiny_recipe_file: Path, tmp_path: Path) -> None:
    run = puna.train(tiny_recipe_file, [*SHORT, f"run={tmp_path / 'run'}"])
    assert (run.finished, run.step, run.folder) == (True, 12, tmp_path / "run")
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert run.summary == read_summary(run.folder)
    validations = [record for record in run.metrics if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [6, 12]
    options = {"max_tokens": 8, "seed": 0}
    assert run.model.generate("the llama", **options) == puna.load(
        run.folder / "model", "cpu"
    ).generate("the llama", **options)
    assert not (run.folder / "report.html").exists(), "the page is the command line's"


@pytest.mark.usefixtures("tiny_inputs")
def test_a_file_its_values_and_a_recipe_are_one_run(
    tiny_recipe: Callable[..., Recipe], tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(*SHORT)
    runs = [
        puna.train(given, [f"run={tmp_path / str(number)}"])
        for number, given in enumerate((recipe, recipe.model_dump()))
    ]
    runs.append(puna.train(str(tiny_recipe_file), [*SHORT, f"run={tmp_path / 'file'}"]))
    assert_same_log(runs[0].metrics, runs[1].metrics)
    assert_same_log(runs[0].metrics, runs[2].metrics)
    assert len({run.summary["recipe_hash"] for run in runs}) == 1


@pytest.mark.usefixtures("tiny_inputs")
def test_stopped_it_says_so_and_resumed_it_ends_as_in_one_piece(
    tiny_recipe_file: Path, tmp_path: Path
) -> None:
    class StopAt(RunObserver):
        step = 0

        def logged(self, record: dict[str, Any]) -> None:
            self.step = record["step"]

    watch, overrides = StopAt(), [*SHORT, "train.log_every=1", f"run={tmp_path / 'run'}"]
    stopped = puna.train(
        tiny_recipe_file, overrides, stop=lambda: watch.step >= 5, observers=[watch]
    )
    assert (stopped.finished, stopped.step, stopped.summary) == (False, 5, {})
    assert read_summary(stopped.folder) is None
    assert (stopped.folder / "checkpoints" / "step-00000005").is_dir()
    assert not (stopped.folder / "model").exists()
    assert isinstance(stopped.model.generate("the", max_tokens=2), str)
    with pytest.raises(TrainingError, match=r"in Python resume=True\) continues it"):
        puna.train(tiny_recipe_file, overrides)
    resumed = puna.train(tiny_recipe_file, overrides, resume=True)
    whole = puna.train(tiny_recipe_file, [*overrides, f"run={tmp_path / 'whole'}"])
    assert resumed.finished
    assert_same_log(resumed.metrics, whole.metrics)
    for key in ("val_loss", "val_bytes", "tokens"):
        assert resumed.summary[key] == whole.summary[key]


@pytest.mark.usefixtures("tiny_inputs")
def test_a_finished_run_goes_on_to_more_steps(tiny_recipe_file: Path, tmp_path: Path) -> None:
    """While it does, it is not finished; then it has the summary of all its steps."""
    # the last step is logged whatever log_every says, and a run in one piece has none at 12
    overrides = [
        *SHORT, "train.log_every=4", "optimizer.schedule=constant", f"run={tmp_path / 'run'}"
    ]  # fmt: skip
    first = puna.train(tiny_recipe_file, overrides)
    longer = [*overrides, "train.steps=18"]
    stopped = puna.train(tiny_recipe_file, longer, resume=True, stop=lambda: True)
    assert (stopped.finished, stopped.step, read_summary(stopped.folder)) == (False, 12, None)
    resumed = puna.train(tiny_recipe_file, longer, resume=True)
    whole = puna.train(tiny_recipe_file, [*longer, f"run={tmp_path / 'whole'}"])
    assert_same_log(resumed.metrics, whole.metrics)
    assert resumed.summary["val_loss"] == whole.summary["val_loss"] != first.summary["val_loss"]
    assert resumed.summary["tokens"] == 18 * 128


@pytest.mark.usefixtures("tiny_inputs")
def test_the_mfu_of_a_run_stands_beside_the_peak_that_it_is_a_share_of(
    tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume measured a tenth of the peak, and its MFUs were ten times the others'."""
    overrides = [*SHORT, "train.log_every=1", f"run={tmp_path / 'run'}"]
    puna.train(tiny_recipe_file, overrides, stop=iter([False] * 3 + [True]).__next__)
    monkeypatch.setattr("puna.training.trainer.measure_matmul_peak", lambda *_: 1e10)
    run = puna.train(tiny_recipe_file, overrides, resume=True)
    steps = [record for record in run.metrics if record["kind"] == "train"]
    assert [record["matmul_peak_gflops"] for record in steps] == [100.0] * 3 + [10.0] * 9
    flops = [
        record["mfu"] * record["matmul_peak_gflops"] / record["tokens_per_second"]
        for record in steps
    ]
    assert flops == pytest.approx([flops[0]] * 12)
    assert (run.summary["mfu"], run.summary["matmul_peak_gflops"]) in {
        (round(record["mfu"], 4), record["matmul_peak_gflops"]) for record in steps
    }


def test_a_start_from_a_model_with_another_tokenizer_is_rejected(
    tiny_recipe: Callable[..., Recipe], tiny_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_run / "model", tmp_path / "model")
    other = Tokenizer.train(["something else entirely " * 20], 300)
    other.save(folder)
    provenance = json.loads((folder / "puna.json").read_text()) | {"tokenizer_hash": other.hash}
    (folder / "puna.json").write_text(json.dumps(provenance))
    recipe = tiny_recipe(f"train.init_from={folder}", f"run={tmp_path / 'run'}")
    with pytest.raises(TrainingError, match=r"another tokenizer .* set tokenizer\.path="):
        puna.train(recipe)
    assert not (tmp_path / "run").exists()


def test_events_come_in_the_order_of_the_class(
    tiny_recipe_file: Path, tiny_corpus: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    """Of a run that has to make everything, and of one that finds it on disk."""
    overrides = [
        *SHORT,
        "train.log_every=2",
        f"run={tmp_path / 'one'}",
        f"tokenizer.path={tmp_path / 'tokenizer'}",
        f"data.mixture=[{{path: {tmp_path / 'data'}, sources: [{tiny_corpus}]}}]",
    ]
    events = Events()
    puna.train(tiny_recipe_file, overrides, observers=[events])
    declared = [name for name in vars(RunObserver) if not name.startswith("_")]
    reused = ["tokenizer_reused", "corpus_reused"]
    rare = ["vocabulary_unused", "corpus_outdated"]
    made = [name for name in declared if name not in reused + rare]
    first = list(dict.fromkeys(events.names))
    assert first == made
    assert events.records == puna.train(tiny_recipe_file, overrides, resume=True).metrics
    again = Events()
    puna.train(tiny_recipe_file, [*overrides, f"run={tmp_path / 'two'}"], observers=[again])
    assert list(dict.fromkeys(again.names)) == reused + made[made.index("measuring_baselines") :]


def test_values_without_a_run_folder_are_rejected(tiny_recipe: Callable[..., Recipe]) -> None:
    values = tiny_recipe().model_dump() | {"run": None}
    with pytest.raises(ConfigError, match=r"names no run folder: add run"):
        resolve_recipe(values)
    assert resolve_recipe(values, ["run=here"]).run == "here"
    with pytest.raises(ConfigError, match=r"the recipe: unknown key train\.stepz"):
        resolve_recipe(values, ["train.stepz=3"])


def test_a_recipe_that_cannot_run_leaves_no_folder(tiny_recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set tokenizer\.vocab_size=300"):
        puna.train(tiny_recipe_file, ["model.vocab_size=299", f"run={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
