"""`puna eval`: the numbers of the library, in a table."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.eval.bits_per_byte import FORMULA, score_tokens
from puna.eval.held_out import text_tokens
from puna.inference.language_model import LanguageModel

Puna = Callable[..., Any]


def value(out: str, name: str) -> float:
    """The number in the table's row of this name."""
    found = re.search(rf"{re.escape(name)}\s+[│|]\s+([\d.,]+)", out)
    assert found, out
    return float(found[1].replace(",", ""))


def test_the_validation_split(puna: Puna, tiny_run: Path, tiny_recipe_file: Path) -> None:
    """With the run's own number of tokens it finds what the run's summary says."""
    result = puna(
        "eval",
        tiny_run / "model",
        "--data",
        tiny_recipe_file.parent / "data",
        "--max-tokens",
        400,
    )
    summary = json.loads((tiny_run / "summary.json").read_text())
    assert result.code == 0
    assert value(result.out, "bits per byte") == pytest.approx(
        summary["val_bits_per_byte"], abs=1e-4
    )
    assert value(result.out, "gzip -9, bits per byte") == pytest.approx(
        summary["gzip_bits_per_byte"], abs=1e-4
    )
    assert value(result.out, "bytes scored") == summary["val_bytes"]
    assert re.search(
        rf"tokens scored\s+[│|]\s+{summary['val_targets']} of {summary['val_all_targets']:,}",
        result.out,
    )
    assert FORMULA in result.out
    assert "windows of 32 tokens, each moved on by 32, with attention across doc" in result.out


def test_a_text(puna: Puna, tiny_run: Path, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("the llama reads old pages 🦙\n" * 9, encoding="utf-8")
    result = puna("eval", tiny_run / "model", "--text", path, "--context", 16, "--stride", 8)
    lengths = tiny_llama.tokenizer.token_lengths()
    score = score_tokens(
        tiny_llama.model,
        text_tokens([str(path)], tiny_llama.tokenizer),
        lengths,
        context=16,
        stride=8,
    )
    assert value(result.out, "loss, nats per token") == pytest.approx(score.loss, abs=1e-4)
    assert value(result.out, "bytes scored") == score.bytes == path.stat().st_size
    assert "windows of 16 tokens, each moved on by 8" in result.out


def test_a_folder_and_a_file_beside_it(
    puna: Puna, tiny_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """What `puna quickstart --text` takes, this takes."""
    (tmp_path / "more.txt").write_text("the llama reads old pages\n")
    arguments = ("--text", tiny_corpus, "--text", tmp_path / "more.txt")
    result = puna("eval", tiny_run / "model", *arguments)
    files = [*tiny_corpus.iterdir(), tmp_path / "more.txt"]
    assert value(result.out, "bytes scored") == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--data DIR or --text SOURCE"),
        (["--data", "a", "--text", "b"], 2, "--data DIR or --text SOURCE"),
        (["--text", "gone.txt"], 1, "error: ... gone.txt ... neither a file, a folder"),
        (
            ["--text", __file__, "--context", "97"],
            1,
            "error: ... context 97 ... 96",
        ),
        (
            ["--text", __file__, "--context", "8", "--stride", "9"],
            1,
            "error: ... stride 9 ... 8",
        ),
        (["--text", __file__, "--context", "-3"], 2, "Invalid value for '--context'"),
        (["--text", __file__, "--max-tokens", "1"], 2, "Invalid value for '--max-tokens'"),
        (["--data", "/"], 1, "error: "),
    ],
)
def test_what_cannot_be_scored(
    arguments: list[str], code: int, message: str, puna: Puna, tiny_run: Path
) -> None:
    result = puna("eval", tiny_run / "model", *arguments)
    assert result.code == code
    assert re.search(said(message), result.err)
