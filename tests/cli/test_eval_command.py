"""`puna eval`: the numbers of the library, in a table."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.eval.bits_per_byte import FORMULA, score_tokens
from puna.eval.held_out import encode_sources
from puna.eval.shipped_tasks import choose_tasks, run_task
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


def test_primed_baselines(puna: Puna, tiny_run: Path, tiny_recipe_file: Path) -> None:
    data = tiny_recipe_file.parent / "data"
    result = puna("eval", tiny_run / "model", "--data", data, "--max-tokens", 400, "--baselines")
    summary = json.loads((tiny_run / "summary.json").read_text())
    for name, level in summary["primed_bits_per_byte"].items():
        assert value(result.out, f"primed {name}, bits per byte") == pytest.approx(level, abs=1e-4)
    assert re.search(r"Primed baselines have read all \S+ MB of the training text", result.out)
    without = puna("eval", tiny_run / "model", "--text", data, "--baselines")
    assert re.search(said("--baselines goes with --data ... leave it out"), without.err)


def test_a_text(puna: Puna, tiny_run: Path, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("the llama reads old pages 🦙\n" * 9, encoding="utf-8")
    result = puna("eval", tiny_run / "model", "--text", path, "--context", 16, "--stride", 8)
    lengths = tiny_llama.tokenizer.token_lengths()
    score = score_tokens(
        tiny_llama.model,
        encode_sources([str(path)], tiny_llama.tokenizer).ids,
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
        ([], 2, "give --text SOURCE or one of --data, --task, --harness"),
        (["--data", "a", "--text", "b"], 2, "give --text SOURCE or one of"),
        (["--task", "all", "--harness", "puna_sums"], 2, "give --text SOURCE or one of"),
        (["--multiple-choice", "a", "--text", "b"], 2, "give --text SOURCE or one of"),
        (["--task", "all", "--context", "8"], 2, "--context goes with --text and --data"),
        (["--text", "a", "--limit", "8"], 2, "--limit goes with --task"),
        (["--task", "all", "--num-fewshot", "2"], 2, "--num-fewshot goes with --harness"),
        (["--multiple-choice", "a", "--seed", "2"], 2, "--seed goes with --task"),
        (["--task", "puna_sum"], 1, "no task 'puna_sum' ... puna_sums"),
        (["--task", "puna_sums", "--text", __file__], 1, "puna_sums ... leave --text out"),
        (["--task", "puna_bits_per_byte"], 1, "none is given: add --text"),
        (["--multiple-choice", "gone.jsonl"], 1, "gone.jsonl cannot be read"),
        (["--task", "all", "--output", "/gone/a.json"], 1, "--output /gone/a.json ... no folder"),
        (["--task", "all", "--output", "/"], 1, "--output / is a folder"),
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
    assert re.search(said(message), re.sub(r"\s*[│|]?\n[│|]?\s*", " ", result.err))


def test_tasks(puna: Puna, tiny_run: Path, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """The figures of the library, in the table and in the file, with versions, n and seed."""
    output = tmp_path / "results.json"
    asked = ("--task", "puna_sums,puna_last_word", "--limit", 8, "--seed", 3, "--output", output)
    result = puna("eval", tiny_run / "model", *asked)
    assert result.code == 0
    record = json.loads(output.read_text())
    assert [task["task"] for task in record["tasks"]] == ["puna_sums", "puna_last_word"]
    assert (record["limit"], record["asked_by"]) == (8, "Puna")
    assert set(record["versions"]) >= {"puna", "torch", "tokenizers"}
    (task,) = choose_tasks(["puna_sums"])
    found = run_task(tiny_llama, task, task.documents(3, (), 8), seed=3)
    assert record["tasks"][0] == json.loads(json.dumps(asdict(found)))
    assert f"{found.metrics['bits_per_byte'].value:.4f}" in result.out
    assert FORMULA in result.out
    assert "bootstrap" in result.out
    assert "from seed 3" in result.out
    assert "puna_sums 100%" in result.err


def test_prompts_that_are_cut_are_counted(puna: Puna, tiny_run: Path) -> None:
    result = puna("eval", tiny_run / "model", "--task", "puna_copy", "--limit", 6)
    assert "4 prompts are longer than the model's context of 96" in result.err


def test_questions(puna: Puna, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    question = {"context": "the llama reads", "choices": ["old pages", "stone"], "answer": 0}
    path.write_text("\n".join([json.dumps(question)] * 5))
    result = puna("eval", tiny_run / "model", "--multiple-choice", path, "--limit", 3)
    assert result.code == 0
    assert re.search(r"acc_norm\s+[│|]\s+[01]\.0000 [│|] .* [│|]\s+3 ", result.out)
    assert 'ln P(choice | context) - ln P(choice | "Answer:")' in result.out


def test_scores_of_a_text_as_json(puna: Puna, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the llama reads old pages 🦙\n" * 9, encoding="utf-8")
    output = tmp_path / "scores.json"
    result = puna("eval", tiny_run / "model", "--text", tmp_path / "text", "--output", output)
    record = json.loads(output.read_text())
    assert record["bits_per_byte"] == pytest.approx(value(result.out, "bits per byte"), abs=1e-4)
    assert (record["kept"], record["bytes"]) == (1.0, (tmp_path / "text").stat().st_size)
    assert "loses text" not in result.out


def test_the_harness_is_named_where_it_is_missing(
    puna: Puna, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    result = puna("eval", tiny_run / "model", "--harness", "puna_sums")
    assert result.code == 1
    assert re.search(said("not installed ... puna[eval] ... --task"), result.err)


def test_the_harness(puna: Puna, tiny_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    output = tmp_path / "results.json"
    for way in ("--task", "--harness"):
        result = puna(
            *("eval", tiny_run / "model", way, "puna_sums", "--limit", 4, "--output", output)
        )
        assert result.code == 0, result.err
        record = json.loads(output.read_text())
        if way == "--task":
            native = record["tasks"]
    assert record["asked_by"].startswith("lm-evaluation-harness ")
    for metric, figure in record["tasks"][0]["metrics"].items():
        assert figure == pytest.approx(native[0]["metrics"][metric])
