"""`puna quickstart`: from a folder of text to a measured model, in one command that can be called
again.
"""

import io
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from said import said

from puna.cli import quickstart
from puna.cli.progress import RunProgress
from puna.cli.run import print_result
from puna.config import dump_yaml, overlay, read_yaml, validate
from puna.data.manifest import Manifest
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.model.weights import read_model
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs
from puna.training.stored_recipe import dump_recipe
from puna.training.trainer import Trainer
from puna.workflow.missing_data import make_missing_data
from puna.workflow.run_data import open_data
from puna.workflow.training_run import priming_bytes

Puna = Callable[..., Any]

PROMISED = {
    "parameters",
    "tokens",
    "train_seconds",
    "tokens_per_second",
    "val_bits_per_byte",
    "gzip_bits_per_byte",
    "xz_bits_per_byte",
    "primed_bits_per_byte",
    "model",
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_inputs: RunInputs) -> None:
    """The quickstart's own recipe with a model that takes seconds, and forty steps."""
    own = quickstart.quickstart_recipe

    def recipe(run: Path, corpus: dict[str, Any], steps: int) -> Recipe:
        model = {
            "vocab_size": quickstart.VOCABULARY,
            "width": 32,
            "num_layers": 1,
            "num_heads": 2,
            "context_length": 32,
            "tie_embeddings": True,
        }
        values = own(run, corpus, steps).model_dump() | {"model": model}
        train = {"batch_size": 8, "context_length": 32, "device": "cpu"}
        return validate(Recipe, overlay(values, {"train": train}), "test")

    monkeypatch.setattr(quickstart, "quickstart_recipe", recipe)
    # the clock has no say: more than all of them fit
    monkeypatch.setattr(quickstart, "steps_within", lambda *_: 20)


@pytest.mark.usefixtures("small")
def test_from_a_folder_to_a_model(puna: Puna, tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = puna("quickstart", "--text", tiny_corpus, "--run", run, "--minutes", 0.05)
    assert result.code == 0, result.err
    for stage in ("1/4", "2/4", "3/4", "4/4", "bits per byte", "puna generate"):
        assert stage in result.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary.keys() >= PROMISED
    assert summary["model"] == str(run / "model")
    assert (
        sum(weight.numel() for weight in read_model(run / "model").parameters())
        == summary["parameters"]
    )

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = puna("quickstart", "--text", tiny_corpus, "--run", run)
    assert again.code == 0
    assert "is finished; --run OTHER starts a new one" in again.out
    assert f"{summary['val_bits_per_byte']:.3f} bits per byte" in again.out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    other = puna("quickstart", "--text", tmp_path, "--run", run)
    assert (other.code, other.err) == (
        1,
        f"error: {run} was trained on {tiny_corpus}, not on {tmp_path}: choose another --run\n",
    )


TRAINING_STEP = Trainer._step


def ctrl_c_at_seven(trainer: Trainer, meter: Any) -> Any:
    """A step of the trainer, and Ctrl-C during the seventh."""
    if trainer.progress.step == 6:
        signal.raise_signal(signal.SIGINT)
    return TRAINING_STEP(trainer, meter)


@pytest.mark.usefixtures("small")
def test_interrupted_it_goes_on(
    puna: Puna, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", ctrl_c_at_seven)
        result = puna("quickstart", "--text", tiny_corpus, "--run", run)
    assert result.code == 130
    assert "stopped and saved at step 7" in result.out
    assert not (run / "summary.json").exists()
    result = puna("quickstart", "--text", tiny_corpus, "--run", run)
    assert result.code == 0, result.err
    assert "is unfinished and goes on" in result.out
    assert json.loads((run / "summary.json").read_text())["tokens"] == 40 * 8 * 32
    assert "40 of at most 40 steps in a budget of" in result.out


@pytest.mark.usefixtures("small")
def test_a_run_without_minutes_goes_on_with_other_instructions(
    puna: Puna, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier release began it: its steps were fixed."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", ctrl_c_at_seven)
        assert puna("quickstart", "--text", tiny_corpus, "--run", run).code == 130
    recipe = read_yaml(run / "recipe.yaml")
    del recipe["train"]["minutes"]
    (run / "recipe.yaml").write_text(dump_yaml(recipe))
    result = puna("quickstart", "--text", tiny_corpus, "--run", run, "--isa", "torch")
    assert result.code == 0, result.err
    assert "40 steps of 256 tokens: predict" in result.out
    assert "computed by torch" in result.out
    assert read_yaml(run / "recipe.yaml")["train"]["isa"] == "torch"


@pytest.mark.usefixtures("small")
def test_texts_and_options_of_reading(
    puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several texts, a folder that holds the run itself, and a name like markup of the terminal's;
    up to the training.
    """
    home = tmp_path / "notes [" / "old]"
    home.mkdir(parents=True)
    for number in range(40):
        (home / f"{number}.txt").write_text(f"text {number} " * 50)
    (home / "broken.jsonl").write_text('{"body": "row"}\n{"body": \n')
    (tmp_path / "rows.csv").write_text("body\nfirst row\nsecond row\n")

    def stop(recipe: Recipe, *_: Any, **__: Any) -> None:
        raise SystemExit(recipe.run)

    monkeypatch.setattr("puna.cli.run.run_recipe", stop)
    monkeypatch.chdir(home)
    arguments = ("--text", ".", "--text", tmp_path / "rows.csv", "--text-field", "body")
    for _ in range(2):
        result = puna("quickstart", *arguments, "--run", home / "runs", "--exclude", ".csv")
        assert result.err == f"{home / 'runs'}\n"
        manifest = Manifest.load(home / "runs" / "data")
        assert [source.name for source in manifest.inputs.sources] == [".", f"{tmp_path}/rows.csv"]
        assert [source.files for source in manifest.inputs.sources] == [41, 1]
        assert sum(split.documents for split in manifest.splits.values()) == 43
    result = puna("quickstart", *arguments, "--run", home / "again", "--max-documents", 10)
    assert "left out: 0 copies, 0 empty, 0 not UTF-8" in result.out
    result = puna("quickstart", *arguments, "--run", home / "strict", "--strict")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "broken.jsonl line 2" in result.err


def test_a_text_that_is_not_there(puna: Puna, tmp_path: Path) -> None:
    result = puna("quickstart", "--text", tmp_path / "gone", "--run", tmp_path / "run")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "gone" in result.err


def words(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choices([f"word{number}" for number in range(300)], k=count)) + "\n"


CORPORA = {
    "1 kB": [words(130, 0)],
    "60 kB": [words(7_700, 0)],
    "1 MB": [words(128_000, 0)],
    "three notes": [words(130, seed) for seed in range(3)],
    "five notes": [words(130 + 100 * seed, seed) for seed in range(5)],
    "40 fortunes": [words(15, seed) for seed in range(40)],
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that a quickstart would train, whose data opens, gives a batch, and is measured
    on; nothing is trained.
    """
    recipes = []

    def run_recipe(recipe: Recipe, progress: RunProgress, **_: Any) -> None:
        with progress:
            make_missing_data(recipe, [progress])
        inputs = open_data(recipe).inputs
        assert inputs.batch(0).shape == (8, recipe.context_length + 1)
        model = build_transformer(recipe.model)
        init_weights(model, recipe.seed)
        assert inputs.validate(model).bits_per_byte > 0
        recipes.append(recipe)
        raise SystemExit

    monkeypatch.setattr("puna.cli.run.run_recipe", run_recipe)
    return recipes


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("texts", CORPORA.values(), ids=CORPORA)
def test_any_small_text_is_trained_on_and_at_most_a_tenth_held_out(
    texts: list[str], puna: Puna, opened: list[Recipe], tmp_path: Path
) -> None:
    """One file always failed below 64 KiB, and 36 to 59% of a few notes were held out."""
    source = tmp_path / "notes"
    source.mkdir()
    for number, text in enumerate(texts):
        (source / f"{number}.txt").write_text(text)
    result = puna("quickstart", "--text", source, "--run", tmp_path / "run")
    assert (result.code, result.err, len(opened)) == (0, "", 1)
    held_out, total, share = re.findall(
        r"held out for validation: ([\d,]+) of ([\d,]+) bytes \(([\d.]+)%\)", result.out
    )[0]
    assert int(total.replace(",", "")) == sum(map(len, texts))
    assert 1 <= float(share) <= 10
    assert "reused" not in result.out, "what was made a moment ago is not news"
    again = puna("quickstart", "--text", source, "--run", tmp_path / "run")
    assert re.search(r"tokenizer: [\d,]+ entries, reused from .*run/tokenizer, of 20", again.out)
    out = " ".join(again.out.split())
    assert f"data: {tmp_path / 'run' / 'data'} reused, prepared from {source} on" in out
    assert f"{held_out} of {total} bytes" in again.out
    other = puna("quickstart", "--text", source / "0.txt", "--run", tmp_path / "run")
    assert re.search(said(f"begun on {source}, not on {source}/0.txt ... --run"), other.err)


@pytest.mark.usefixtures("small")
def test_a_short_text_gets_a_vocabulary_and_windows_that_fit(
    puna: Puna, opened: list[Recipe], tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text(CORPORA["1 kB"][0])
    result = puna("quickstart", "--text", tmp_path / "note.txt", "--run", tmp_path / "run")
    entries = Tokenizer.load(tmp_path / "run" / "tokenizer").vocab_size
    (recipe,) = opened
    assert recipe.model.vocab_size == recipe.tokenizer.vocab_size == entries < 2048
    assert f"a vocabulary of {entries} tokens in place of 4,096" in result.out
    tokens = Manifest.load(tmp_path / "run" / "data").splits["train"].tokens
    assert recipe.context_length == min(32, (tokens - 1) // 8)
    assert (recipe.train.steps, recipe.optimizer.warmup_steps) == (40, 1)
    assert recipe.train.validate_every == 10
    assert 1 < 60 * (recipe.train.minutes or 0) < 60 * 2.5


@pytest.mark.usefixtures("small")
def test_a_text_of_ones_own_to_measure_on(puna: Puna, opened: list[Recipe], tmp_path: Path) -> None:
    note, diary = tmp_path / "note.txt", tmp_path / "diary.txt"
    note.write_text(words(2_000, 0))
    diary.write_text(words(100, 1))
    run = tmp_path / "run"
    result = puna("quickstart", "--text", note, "--validation", diary, "--run", run)
    assert result.code == 0, result.err
    size = diary.stat().st_size
    assert f"held out for validation: {size} of" in result.out
    assert Manifest.load(run / "data").splits["train"].bytes == note.stat().st_size
    (run / "recipe.yaml").write_text(dump_recipe(opened[0]))
    other = puna("quickstart", "--text", note, "--validation", note, "--run", run)
    assert re.search(said(f"validation text {note} ... another --run"), other.err)


def test_the_steps_that_are_expected(
    tiny_recipe: Callable[..., Recipe], tiny_inputs: RunInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a second each; before, there were 100 a minute on the slowest machine."""
    monkeypatch.setattr("puna.training.step_time.fastest_step_seconds", lambda *_, **__: 1.0)
    assert quickstart.steps_within(tiny_recipe(), 3.0) == 10
    assert 900 < quickstart.steps_within(tiny_recipe(), 1000.0) <= 1000
    recipe = quickstart.with_budget(tiny_recipe(), 1000, 987.654)
    assert (recipe.train.steps, recipe.train.minutes) == (2000, 16.4609)
    assert (recipe.optimizer.warmup_steps, recipe.train.validate_every) == (50, 200)


@pytest.mark.parametrize(
    ("minutes", "measured", "read"),
    [
        (0.05, 10_000, 7_500),
        (0.5, 10_800, 750_000),
        (1.0, 21_600, 3_000_000),
        (2.0, 43_200, 12_000_000),
        (2.5, 50_000, 12_000_000),
    ],
)
def test_little_time_goes_to_steps_and_not_to_measurement(
    minutes: float, measured: int, read: int, tiny_recipe: Callable[..., Recipe]
) -> None:
    """Half a minute had 7 steps once: the baselines had read all of the text before."""
    recipe = quickstart.with_budget(tiny_recipe(), 100, 60 * minutes)
    assert (recipe.train.validation_tokens, priming_bytes(recipe)) == (measured, read)
    # 1.3 s of one core for a MB
    assert 1.3e-6 * read <= 0.13 * 60 * minutes
    assert priming_bytes(tiny_recipe()) == 12_000_000


def test_the_summary_of_a_run_of_an_earlier_release_is_shown(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    numbers = ("val_bits_per_byte", "gzip_bits_per_byte", "xz_bits_per_byte", "tokens")
    rates = ("train_seconds", "tokens_per_second", "mfu", "matmul_peak_gflops")
    print_result({**dict.fromkeys(numbers + rates, 1.0), "model": "m"}, tmp_path, console)
    assert "xz -9 1.000)\n1.0 tokens in" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_result_names_what_the_primed_baselines_have_read(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    numbers = ("val_bits_per_byte", "gzip_bits_per_byte", "xz_bits_per_byte", "tokens")
    rates = ("train_seconds", "tokens_per_second", "mfu", "matmul_peak_gflops")
    primed = {
        "primed_bits_per_byte": {"xz -9e": 1.25, "PPMd": 1.0},
        "primed_read_bytes": 12_000_000,
        "primed_all_bytes": 905_000_000,
    }
    print_result({**dict.fromkeys(numbers + rates, 1.0), **primed, "model": "m"}, tmp_path, console)
    assert (
        "\nhaving read 12 of 905 MB of the training text first: xz -9e 1.250, PPMd 1.000\n"
        in console.file.getvalue()  # type: ignore[attr-defined]
    )


@pytest.mark.slow
def test_as_it_is_installed(tiny_corpus: Path, tmp_path: Path) -> None:
    """The real recipe in a process of its own: the fewest steps that it takes."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", "from puna.cli.main import main; main()", "quickstart"]
    done = subprocess.run(
        [*command, "--text", str(tiny_corpus), "--run", str(run), "--minutes", "0.05"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "summary.json").read_text()).keys() >= PROMISED
