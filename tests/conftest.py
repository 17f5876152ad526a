"""Fixtures of the tests above data and tokenizer: the `puna` command within this process, a corpus
of made-up sentences, a recipe that trains in a second, one run of it, and a small disk.
"""

import ctypes
import io
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from hypothesis import settings

if TYPE_CHECKING:
    from puna.inference.language_model import LanguageModel
    from puna.training.recipe import Recipe
    from puna.training.run_inputs import RunInputs

# A deadline of hypothesis is a test of the machine: one fails where other programs run
settings.register_profile("puna", deadline=None)
settings.load_profile("puna")

# A shell ignores Ctrl-C in what it starts in the background, and programs inherit that: those that
# the tests interrupt would never hear of it
signal.signal(signal.SIGINT, signal.default_int_handler)

TEXT = (
    "the llama reads old pages über naïve 東京 мир 🦙 is was near far a of and to in river stone"
    " light"
)

TINY: dict[str, Any] = {
    "seed": 7,
    "data": {"mixture": [], "validation_fraction": 0.1},
    "model": {
        "width": 32,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "feed_forward_width": 96,
        "context_length": 96,
        "tie_embeddings": True,
    },
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 4},
    "train": {
        "steps": 40,
        "batch_size": 4,
        "micro_batch_size": 2,
        "context_length": 32,
        "device": "cpu",
        "precision": "float32",
        "log_every": 5,
        "validate_every": 20,
        "validation_tokens": 400,
        "checkpoint_every": 10,
    },
}


class Result(NamedTuple):
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def puna(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run a command as the installed script does; what `sys.exit` is given as text goes to standard
    error, with code 1.
    """

    from puna.cli.main import main

    def run(*arguments: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["puna", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        if isinstance(exited.value.code, str):
            return Result(1, out, err + exited.value.code + "\n")
        return Result(exited.value.code or 0, out, err)

    return run


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty text files of 50 to 150 words in several scripts."""
    folder = tmp_path_factory.mktemp("tiny") / "corpus"
    folder.mkdir()
    rng = random.Random(0)
    for number in range(60):
        words = rng.choices(TEXT.split(), k=rng.randint(50, 150))
        (folder / f"{number:02d}.txt").write_text(
            f"{number}. {' '.join(words)}.\n", encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_recipe_file(tiny_corpus: Path) -> Path:
    """A recipe of 40 steps, whose tokenizer (300 entries) and data are prepared already."""
    from puna.training.recipe import read_recipe
    from puna.workflow.missing_data import make_missing_data

    home = tiny_corpus.parent
    values = TINY | {
        "run": str(home / "default-run"),
        "tokenizer": {"path": str(home / "tokenizer"), "vocab_size": 300},
        "data": (
            TINY["data"]
            | {"mixture": [{"path": str(home / "data"), "sources": [str(tiny_corpus)]}]}
        ),
    }
    path = home / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    make_missing_data(read_recipe(path, []))
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tiny_recipe_file: Path) -> "Callable[..., Recipe]":
    """The recipe with overrides such as "train.steps=3"."""
    from puna.training.recipe import read_recipe

    return lambda *overrides: read_recipe(tiny_recipe_file, list(overrides))


@pytest.fixture(scope="session")
def tiny_inputs(tiny_recipe: "Callable[..., Recipe]") -> "Iterator[RunInputs]":
    """What a trainer needs of the data; while it is in use, no trainer spends half a second on the
    matmul peak.
    """
    from puna.training import trainer
    from puna.workflow.run_data import open_data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "measure_matmul_peak", lambda *_: 1e11)
        yield open_data(tiny_recipe()).inputs


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe_file: Path, tiny_inputs: "RunInputs") -> Path:
    """The folder of the finished run."""
    from puna.cli.train import train

    run = tiny_recipe_file.parent / "finished"
    train(tiny_recipe_file, [f"run={run}"])
    return run


@pytest.fixture(scope="session")
def tiny_llama(tiny_run: Path) -> "LanguageModel":
    """The finished run's model with its tokenizer."""
    from puna.inference.language_model import load

    return load(tiny_run / "model", "cpu")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB, of which a checkpoint of the tiny recipe takes about a tenth."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(folder)
    if not hasattr(libc, "umount") or libc.mount(b"tmpfs", target, b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    yield folder
    libc.umount(target)
