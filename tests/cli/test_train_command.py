"""`puna train` and `puna verify-resume`: what they say, leave behind and reject."""

import json
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from damaged_tier import damage_fastest_tier
from safetensors.torch import save_file
from said import said

from puna.cli.progress import matmul_peak_words
from puna.model.accounting import count_parameters
from puna.model.weights import read_model
from puna.native import library
from puna.run_log import read_run_log
from puna.training import checkpoint
from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs
from puna.training.stored_recipe import read_stored_recipe, recipe_hash
from puna.training.throughput import ThroughputMeter
from puna.training.trainer import Trainer

Puna = Callable[..., Any]


def test_a_finished_run_holds_all_that_was_promised(
    tiny_run: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    assert names == {
        "recipe.yaml",
        "run.lock",
        "baselines.json",
        "metrics.jsonl",
        "checkpoints",
        "best.json",
        "samples.json",
        "model",
        "summary.json",
        "report.html",
    }
    summary = json.loads((tiny_run / "summary.json").read_text())
    recipe = tiny_recipe()
    assert summary["parameters"] == count_parameters(recipe.model).total
    assert summary["parameters"] == sum(
        weight.numel() for weight in read_model(tiny_run / "model").parameters()
    )
    assert summary["tokens"] == 40 * 128
    assert summary["tokens_per_second"] == pytest.approx(
        summary["tokens"] / summary["train_seconds"], rel=0.05
    )
    assert 0 < summary["val_bits_per_byte"] < 4
    assert summary["gzip_bits_per_byte"] > 0
    assert summary["xz_bits_per_byte"] > 0
    assert set(summary["primed_bits_per_byte"]) == {"xz -9e", "zstd -22", "PPMd", "5-gram"}
    assert summary["primed_read_bytes"] == summary["primed_all_bytes"]
    assert summary["baseline_bytes"] == summary["val_bytes"]
    assert summary["model"] == str(tiny_run / "model")
    assert summary["recipe_hash"] == recipe_hash(recipe)
    assert (
        read_stored_recipe(tiny_run).fingerprint() == tiny_recipe(f"run={tiny_run}").fingerprint()
    )
    samples = json.loads((tiny_run / "samples.json").read_text())
    assert all(sample["prompt"] and sample["text"] for sample in samples)


def test_a_dry_run_spends_nothing(
    puna: Puna, tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.device.measure_matmul_peak", lambda *_: 1e11)
    monkeypatch.chdir(tmp_path)
    result = puna("train", tiny_recipe_file, "run=here", "--dry-run")
    assert result.code == 0
    assert "5,120 (40 steps of 128)" in result.out
    assert "epochs" in result.out
    assert "time budget" not in result.out
    result = puna("train", tiny_recipe_file, "run=here", "--dry-run", "train.minutes=3")
    assert "3 minutes: of these steps as many as fit" in result.out
    result = puna(
        "train", tiny_recipe_file, "run=here", "--dry-run", "data.mixture=[{path: none-yet}]"
    )
    assert "known once the data is prepared" in result.out
    assert list(tmp_path.iterdir()) == []


def test_emulated_bfloat16_is_said_before_a_minute_of_silence(
    puna: Puna, tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.device.measure_matmul_peak", lambda *_: 1e11)
    for hardware in (True, False):
        monkeypatch.setattr("puna.device.has_bfloat16_arithmetic", lambda _, found=hardware: found)
        result = puna("train", tiny_recipe_file, "--dry-run", "train.precision=bfloat16")
        assert ("bfloat16 is emulated here" in result.out) is not hardware


def test_the_load_stands_beside_the_peak() -> None:
    assert (
        matmul_peak_words(4.2e11, 1.96)
        == "matmul peak 420 GFLOP/s (measured while other programs took 2.0 cores)"
    )
    assert matmul_peak_words(4.2e11, None) == "matmul peak 420 GFLOP/s (measured)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz ... train.steps?"),
        ("train.steps", "'train.steps' ... section.key=value"),
        ("train.steps=4", "optimizer.warmup_steps 4 ... train.steps 4 ... lower it"),
        ("train.device=cuda:99", "'cuda:99' cannot be used"),
        (
            "model.vocab_size=299",
            "300 ... model.vocab_size ... 299 ... set tokenizer.vocab_size=300",
        ),
        (
            "data.mixture=[{path: none-yet}]",
            "none-yet ... prepared ... data.mixture ... sources",
        ),
    ],
)
def test_a_recipe_that_cannot_run_is_one_line_and_no_folder(
    override: str, message: str, puna: Puna, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    result = puna("train", tiny_recipe_file, f"run={tmp_path / 'run'}", override)
    assert result.code == 1
    assert re.search(said(message), result.err)
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_rejected(
    puna: Puna, tiny_recipe_file: Path, tiny_run: Path
) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    result = puna("train", tiny_recipe_file, f"run={tiny_run}")
    assert result.code == 1
    assert re.match(said(f"error: {tiny_run} ... a run ... --resume ... run="), result.err)
    assert result.err.count("\n") == 1
    result = puna(
        "train", tiny_recipe_file, f"run={tiny_run}", "--resume", "optimizer.weight_decay=0.3"
    )
    assert "optimizer.weight_decay" in result.err
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


STEP = Trainer._step


def interrupted(at: Mapping[int, int]) -> Callable[..., Any]:
    """A training step that sends so many interrupts after the steps that are named."""

    def step(trainer: Trainer, meter: ThroughputMeter) -> Any:
        result = STEP(trainer, meter)
        for _ in range(at.get(trainer.progress.step, 0)):
            signal.raise_signal(signal.SIGINT)
        return result

    return step


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ({13: 1}, "stopped and saved at step 13; the same command with --resume goes on"),
        ({13: 2}, "stopped at once, unsaved: steps 11 to 13 are lost; ... --resume goes on"),
        ({3: 2}, "stopped at once, unsaved: steps 1 to 3 are lost; ... --resume goes on"),
    ],
)
def test_a_second_interrupt_says_what_is_lost(
    at: Mapping[int, int],
    expected: str,
    puna: Puna,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "_step", interrupted(at))
    result = puna("train", tiny_recipe_file, f"run={tmp_path / 'run'}")
    assert result.code == 128 + signal.SIGINT
    assert re.search(said(expected), result.out)
    saved = max(checkpoint.checkpoints(tmp_path / "run"), default=0)
    assert saved == {"stopped and": 13}.get(expected[:11], max(at) // 10 * 10)


def test_a_resume_says_where_it_goes_on_and_what_changed(
    puna: Puna,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("train", tiny_recipe_file, f"run={tmp_path / 'run'}")
    for at, begun in (
        ({3: 2}, ""),
        ({13: 1}, "has no checkpoint after a step yet: it begins at step 0"),
    ):
        monkeypatch.setattr(Trainer, "_step", interrupted(at))
        resume = ["--resume"] if begun else []
        assert begun in puna(*command, *resume).out
    monkeypatch.setattr(Trainer, "_step", STEP)
    result = puna(*command, "--resume", "train.steps=14")
    assert "goes on after step 13, from its checkpoint\n" in result.out
    assert "train.steps: 40 before, 14 now" in result.out


def test_a_scheduler_gives_one_command_for_the_start_and_for_all_that_follow(
    puna: Puna,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("train", tiny_recipe_file, f"run={tmp_path / 'run'}", "--auto-resume")
    monkeypatch.setattr(Trainer, "_step", interrupted({13: 1}))
    assert "stopped and saved at step 13" in puna(*command).out
    monkeypatch.setattr(Trainer, "_step", STEP)
    assert "goes on after step 13, from its checkpoint\n" in puna(*command).out
    log = read_run_log(tmp_path / "run" / "metrics.jsonl")
    assert puna(*command).code == 0, "started once more after its end, it has nothing to train"
    again = read_run_log(tmp_path / "run" / "metrics.jsonl")
    trained = [[record for record in kept if record["kind"] == "train"] for kept in (log, again)]
    assert trained[0] == trained[1]


def test_an_output_that_cannot_be_written_is_one_line(
    puna: Puna, tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = puna("train", tiny_recipe_file, f"run={tmp_path / 'file' / 'run'}")
    assert (result.code, result.err) == (
        1,
        f"error: Not a directory: {tmp_path / 'file' / 'run'}\n",
    )


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_verify_resume_says_identical(
    name: str, puna: Puna, tiny_recipe_file: Path, tiny_inputs: RunInputs
) -> None:
    result = puna("verify-resume", tiny_recipe_file, f"optimizer.name={name}", "--steps", 12)
    assert result.code == 0
    weights = 2 * 9 + 2  # nine a layer, the embedding, the last norm
    # AdamW's step and two moments, or one momentum
    by_adamw = {"adamw": weights, "muon": weights - 2 * 7, "sgd": 0}[name]
    tensors = 3 * by_adamw + (weights - by_adamw)
    assert (
        f"identical after 12 steps: {weights} weights, {tensors} optimizer tensors and"
        in result.out
    )
    assert "stopped at step 6 and resumed" in result.out


def test_verify_resume_leaves_the_time_budget_out(
    puna: Puna, tiny_recipe_file: Path, tiny_inputs: RunInputs
) -> None:
    """A thousandth of a minute would cut the run, and at another step each time."""
    command = ("verify-resume", tiny_recipe_file, "train.minutes=0.001")
    assert "identical after 12 steps" in puna(*command, "--steps", 12).out


def test_a_run_with_a_time_budget_says_how_long_it_became(
    puna: Puna, tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    result = puna(
        "train",
        tiny_recipe_file,
        f"run={tmp_path / 'run'}",
        "train.minutes=0.0001",
        "train.log_every=1",
    )
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    steps = summary["steps"]
    assert steps < summary["most_steps"] == 40
    assert (summary["tokens"], summary["budget_seconds"]) == (steps * 128, 0.01)
    assert re.search(r"step \d+: \d+ steps in all fit in the time budget", result.out)
    assert f"step {steps}/{steps}  loss" in result.out
    assert f"\n{steps} of at most 40 steps in a budget of 0 s\n" in result.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "as many as fit in the time budget" in page


def test_verify_resume_finds_a_difference(
    puna: Puna, tiny_recipe_file: Path, tiny_inputs: RunInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume that forgets the optimizer's state is what it is there to find."""
    monkeypatch.setattr(checkpoint, "write_tensors", lambda path, _: save_file({}, path))
    result = puna("verify-resume", tiny_recipe_file, "--steps", 12)
    assert result.code == 1
    assert "different after 12 steps: weight embed_tokens.weight" in result.out


def test_data_that_was_made_from_other_text_is_rejected(
    puna: Puna, tiny_recipe_file: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """A folder that an earlier, different attempt left behind must not be trained on in silence."""
    data = tiny_corpus.parent / "data"
    override = f"data.mixture=[{{path: {data}, sources: [{tmp_path}]}}]"
    result = puna("train", tiny_recipe_file, override, f"run={tmp_path / 'run'}")
    assert result.code == 1
    assert (
        result.err
        == f"error: {data} was prepared from {tiny_corpus}, but the recipe names {tmp_path}: give"
        " this part of data.mixture a path of its own, or delete the folder\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_without_the_native_core_says_so_once(
    puna: Puna,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after an install without a compiler."""
    monkeypatch.setattr(library, "_path", lambda tier: tmp_path / f"puna_{tier}.so")
    result = puna("train", tiny_recipe_file, f"run={tmp_path / 'run'}", "train.steps=6")
    assert result.code == 0, result.err
    said_there = result.out + result.err
    assert said_there.count("the native core was not built") == 1
    assert "computed by torch" in said_there


def test_a_damaged_tier_is_passed_over_and_said_once(
    puna: Puna,
    tiny_recipe_file: Path,
    tiny_inputs: RunInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a run and in `puna doctor`; asked for by name it is an error."""
    tiers = damage_fastest_tier(tmp_path, monkeypatch)
    arguments = ("train", tiny_recipe_file, f"run={tmp_path / 'run'}", "train.steps=6")
    named = puna(*arguments, "--isa", tiers[-1])
    assert (named.code, named.err.count("\n")) == (1, 1)
    assert re.search(said(f"error: ... puna_{tiers[-1]}.so cannot be loaded"), named.err)
    assert not (tmp_path / "run").exists()
    result = puna(*arguments)
    assert result.code == 0, result.err
    said_there = "".join((result.out + result.err).split())
    assert said_there.count("cannotbeloaded") == 1
    assert f"computedbythenativecore,{tiers[-2]}" in said_there
    doctor = json.loads(puna("doctor", "--quick", "--json").out)
    assert (doctor["native"]["chosen"], doctor["native"]["problem"]) == (tiers[-2], None)
    (warning,) = [each for each in doctor["warnings"] if "native core" in each]
    assert re.search(said("cannot be loaded ... install"), warning)
