"""`puna tokenizer`: what goes through pipes is exact, what is for eyes says the facts."""

import re
from pathlib import Path

import pytest
from said import said
from trained_kinds import llama2
from typer.testing import CliRunner

from puna.cli.tokenizer import app
from puna.errors import DataError, TokenizerError
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> str:
    tokenizer.save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def run(*arguments: str, stdin: bytes = b"") -> bytes:
    result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def test_train_writes_a_folder_and_mixes_its_sources(tmp_path: Path) -> None:
    """The cap keeps a text of each source; without turns the first source would fill it alone."""
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / f"{number}.txt").write_text(f"aaaa bbb{number} " * 100)
    (tmp_path / "one.txt").write_text("wxyz wxyz " * 100)
    out = tmp_path / "out"
    sources = [str(tmp_path / "many"), str(tmp_path / "one.txt")]
    run(
        "train",
        *sources,
        "--out",
        str(out),
        "--vocab-size",
        "300",
        "--digits",
        "three",
        "--max-bytes",
        "2000",
    )
    trained = Tokenizer.load(out)
    assert trained.digits == "three"
    assert len(trained.encode("wxyz")) == 1
    assert len(trained.encode("aaaa")) == 1


def test_train_reads_a_nested_field_and_names_bad_rows(tmp_path: Path) -> None:
    rows = [f'{{"message": {{"content": "wxyz wxyz {number}"}}}}\n' for number in range(40)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(rows) + '{"message": \n')
    arguments = ["train", str(path), "--out", str(tmp_path / "out"), "--vocab-size", "300"]
    result = CliRunner().invoke(app, [*arguments, "--text-field", "message.content"])
    assert result.exit_code == 0, result.output
    assert f"damaged: {path} line 41 is not valid JSON" in result.output
    assert len(Tokenizer.load(tmp_path / "out").encode("wxyz")) == 1
    result = CliRunner().invoke(app, [*arguments, "--text-field", "message.content", "--strict"])
    assert "line 41" in str(result.exception)


def test_train_overwrites_no_other_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("wxyz wxyz " * 100)
    out = tmp_path / "out"
    command = ["train", str(tmp_path / "a.txt"), "--out", str(out), "--vocab-size"]
    run(*command, "270")
    before = (out / "tokenizer.json").read_bytes()
    run(*command, "270")  # the same tokenizer
    result = CliRunner().invoke(app, [*command, "266"])
    assert isinstance(result.exception, TokenizerError)
    hashes = Tokenizer.load(out).hash[:12]
    assert re.search(
        said(f"{out} ... {hashes} ... another --out ... delete"), str(result.exception)
    )
    assert (out / "tokenizer.json").read_bytes() == before


def test_train_says_when_the_vocabulary_is_smaller(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abab")
    result = CliRunner().invoke(
        app,
        ["train", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), "--vocab-size", "5000"],
    )
    assert result.exit_code == 0
    assert "smaller than the 5,000 asked for" in " ".join(result.stderr.split())


def test_train_passes_errors_on(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run("train", str(tmp_path / "missing"), "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("text", ["two\r\nlines\n", "no line break", " é🦙\t<|eot_id|>", ""])
def test_encode_then_decode_is_exact(folder: str, tokenizer: Tokenizer, text: str) -> None:
    ids = run("encode", folder, stdin=text.encode())
    assert ids.split() == [str(id_).encode() for id_ in tokenizer.encode(text)]
    assert run("decode", folder, stdin=ids) == text.encode()


def test_other_kinds_are_exact_too_and_their_loss_is_said(tmp_path: Path) -> None:
    Tokenizer(llama2().to_str()).save(tmp_path)
    for command, text in (("encode", " they carry\n"), ("inspect", "they")):
        result = CliRunner().invoke(app, [command, str(tmp_path), text], catch_exceptions=False)
        assert result.stderr.count("loses text") == 1
        assert "U+2581" in result.stderr
        assert "loses" not in result.stdout
    ids = run("encode", str(tmp_path), stdin=b" they carry\n")
    assert run("decode", str(tmp_path), stdin=ids) == b" they carry\n"


def test_arguments_in_place_of_standard_input(folder: str, tokenizer: Tokenizer) -> None:
    ids = run("encode", folder, "In 2024").decode().split()
    assert run("decode", folder, *ids) == b"In 2024"
    assert run("decode", folder, ",".join(ids)) == b"In 2024"
    assert run("decode", folder, "--skip-special", str(tokenizer.eos_id), *ids) == b"In 2024"


def test_what_is_no_id_or_no_utf8_is_rejected(folder: str) -> None:
    with pytest.raises(TokenizerError, match="whole numbers"):
        run("decode", folder, "12", "x")
    with pytest.raises(TokenizerError, match=r"not UTF-8 \(byte 1\)"):
        run("encode", folder, stdin=b"a\xff")


def test_inspect_tells_the_facts_and_draws_the_cut(folder: str, tokenizer: Tokenizer) -> None:
    shown = run("inspect", folder, "99 the\t\n\N{SOFT HYPHEN}").decode()
    assert "1,000 tokens" in shown
    assert "one" in shown
    assert all(name in shown for name in tokenizer.special_tokens)
    assert "9|9|·the" in shown
    assert "→" in shown
    assert "⏎\n" in shown
    assert "<C2>|<AD>" in shown
    count = len(tokenizer.encode("99 the\t\n\N{SOFT HYPHEN}"))
    assert f"10 bytes, {count} tokens, {10 / count:.3f} bytes per token" in shown


@pytest.mark.parametrize("command", ["train", "encode", "decode", "inspect"])
def test_every_help_has_an_example(command: str) -> None:
    assert f"puna tokenizer {command}" in run(command, "--help").decode()
