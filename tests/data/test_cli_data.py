"""`puna data` as a user meets it."""

import inspect as python_inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from made_texts import make_texts
from said import said
from typer.testing import CliRunner

from puna.cli import data
from puna.data import prepare as prepare_module
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer

Corpus = Callable[..., Path]


@pytest.fixture
def tokenizer_folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(
        data.app, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_prepare_and_inspect(corpus: Corpus, tokenizer_folder: Path, tmp_path: Path) -> None:
    texts = make_texts(200)
    out = tmp_path / "out"
    written = run(
        "prepare", corpus([*texts, texts[0]]), "--tokenizer", tokenizer_folder, "--out", out
    )
    assert "100%" in written
    for shown in (written, run("inspect", out)):
        assert "train" in shown
        assert "validation" in shown
        assert "left out: 1 copies, 0 empty, 0 not UTF-8" in shown
    shown = run("inspect", out)
    assert "2 shards verified" in shown
    assert "<|begin_of_text|>0." in shown
    assert "verified" not in run("inspect", out, "--no-verify")


def test_an_empty_validation_split_is_told(
    corpus: Corpus, tokenizer_folder: Path, tmp_path: Path
) -> None:
    source = corpus(["the only text"])
    shown = run(
        "prepare",
        source,
        "--tokenizer",
        tokenizer_folder,
        "--out",
        tmp_path / "a",
        "--validation-fraction",
        "1e-9",
    )
    assert "No document fell to validation" in shown
    shown = run(
        "prepare",
        source,
        "--tokenizer",
        tokenizer_folder,
        "--out",
        tmp_path / "b",
        "--validation-fraction",
        "0",
    )
    assert "No document fell" not in shown


def test_inspect_rejects_altered_shards(
    corpus: Corpus, tokenizer_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("prepare", corpus(make_texts(20)), "--tokenizer", tokenizer_folder, "--out", out)
    tokens = out / "train-00000.tokens"
    tokens.write_bytes(bytes(len(tokens.read_bytes())))
    with pytest.raises(DataError, match=said("train-00000.tokens ... altered")):
        run("inspect", out)


def test_the_commands_defaults_are_the_functions() -> None:
    command = python_inspect.signature(data.prepare).parameters
    function = python_inspect.signature(prepare_module.prepare).parameters
    shared = [
        name
        for name in function
        if name in command and function[name].default is not python_inspect.Parameter.empty
    ]
    assert len(shared) == 6
    assert {name: command[name].default for name in shared} == {
        name: function[name].default for name in shared
    }


def test_help_teaches_with_examples() -> None:
    assert "puna data prepare python-stdlib" in run("prepare", "--help")
    assert "puna data inspect" in run("inspect", "--help")
