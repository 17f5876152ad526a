"""`puna data` as a user meets it."""

import gzip
import inspect as python_inspect
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_texts import make_texts
from said import said
from typer.testing import CliRunner

from puna.cli import data
from puna.data import prepare as prepare_module
from puna.data.manifest import Manifest
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


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with a file of every kind that is passed over, below a name that looks like markup
    of the terminal's.
    """
    folder = tmp_path / "notes [" / "old]"
    folder.mkdir(parents=True)
    files: dict[bytes, bytes] = {
        **{f"{n:03}.txt".encode(): text.encode() for n, text in enumerate(make_texts(120))},
        b"copy.txt": make_texts(1)[0].encode(),
        b"empty.txt": b" \n",
        b"image.png": b"\x89PNG\0",
        b"latin.txt": ("Die Bücher über größere Häuser gehören dem Schüler. " * 9).encode("cp1252"),
        b"windows.txt": "Windows wrote this.".encode("utf-16"),
        b"m\xfcller.txt": b"the name of this file is Latin-1",
        b"rows.jsonl": b'{"text": "row 1"}\n{"text": \n{"text": "\xff"}\n{"text": "row 4"}\n',
        b"cut.gz": gzip.compress(b"cut off" * 99)[:-9],
        b"cut.zip": b"PK\x03\x04",
        b"padded.gz": gzip.compress(b"from a tape") + bytes(512),
        b"other.csv": b"body\ntext\n",
    }
    for name, content in files.items():
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
            file.write(content)
    (folder / "itself").symlink_to("itself")
    (folder / "nowhere").symlink_to("gone")
    (folder / "linked").symlink_to(tmp_path)
    return folder


def test_a_folder_of_bad_files_is_prepared_and_its_report_names_them(
    damaged: Path, tokenizer_folder: Path
) -> None:
    out = damaged / "out"
    arguments = ("prepare", damaged, "--tokenizer", tokenizer_folder, "--out", out)
    for shown in (run(*arguments), run("inspect", out), run(*arguments)):
        lines = [line.strip().replace(f"{damaged}/", "") for line in shown.splitlines()]
        assert f"sources: {damaged}" in lines
        assert (
            "left out: 1 copies, 1 empty, 3 not UTF-8, 1 binary, 6 damaged, 1 links not followed"
        ) in lines
        assert "copies: copy.txt" in lines
        assert (
            "not UTF-8: latin.txt (likely cp1252); rows.jsonl line 3; windows.txt (likely UTF-16)"
        ) in lines
        assert "binary: image.png" in lines
        assert "links not followed: linked" in lines
        (line,) = [line for line in lines if line.startswith("damaged: ")]
        for part in (
            "itself cannot be read: Too many levels",
            "nowhere is a link that leads nowhere",
            "cut.gz cannot be read: ",
            "cut.zip cannot be read: ",
            "other.csv has no field 'text', only ['body']; name the field with --text-field",
            "rows.jsonl line 2 is not valid JSON",
        ):
            assert part in line
    with pytest.raises(DataError, match=said("itself ... strict ... --strict")):
        run(*arguments[:-1], damaged / "other", "--strict")


@pytest.mark.parametrize(("fraction", "documents"), [("1e-9", 1), ("0", 0)])
def test_any_fraction_holds_something_out(
    corpus: Corpus, tokenizer_folder: Path, tmp_path: Path, fraction: str, documents: int
) -> None:
    """A fraction too small for the documents left a folder on which nothing could be measured."""
    source, out = corpus(["the only text"]), tmp_path / "a"
    options = ("--tokenizer", tokenizer_folder, "--out", out, "--validation-fraction", fraction)
    run("prepare", source, *options)
    assert Manifest.load(out).splits["validation"].documents == documents


def test_validation_text_of_ones_own_is_held_out(
    corpus: Corpus, tokenizer_folder: Path, tmp_path: Path
) -> None:
    texts, out = make_texts(20), tmp_path / "out"
    held_out = [corpus(texts[:2], name="b"), corpus(texts[2:3], name="c")]
    options = [part for folder in held_out for part in ("--validation", folder)]
    source = corpus(texts)
    run("prepare", source, "--tokenizer", tokenizer_folder, "--out", out, *options)
    manifest = Manifest.load(out)
    counts = {name: split.documents for name, split in manifest.splits.items()}
    assert counts == {"validation": 3, "train": 17}
    assert manifest.duplicates == 3


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
    shared = [name for name in shared if name not in ("include", "exclude")]  # no list there is ()
    assert len(shared) == 11
    assert {name: command[name].default for name in shared} == {
        name: function[name].default for name in shared
    }


def test_help_teaches_with_examples() -> None:
    assert "puna data prepare python-stdlib" in run("prepare", "--help")
    assert "puna data inspect" in run("inspect", "--help")
