"""`puna bench inference`: errors before anything is measured, and the table and JSON of rows."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.inference_benchmark import comparison
from puna.inference_benchmark.verdict import LLAMA, OURS, MachineLimits, Row
from puna.inference_benchmark.workload import WORKLOADS

Puna = Callable[..., Any]


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows by hand: 100 tokens/s beside 50."""
    rows = [
        Row(
            WORKLOADS["decode"],
            "int8",
            {OURS: [99.0, 100.0, 101.0], LLAMA: [50.0, 50.0, 50.0]},
            MachineLimits(reading=1e10, others=0.25),
        ),
        Row(
            WORKLOADS["prefill"],
            "int8",
            {OURS: [1000.0], LLAMA: []},
            MachineLimits(int8=5e11),
            {LLAMA: "it ended with code 1"},
        ),
    ]
    monkeypatch.setattr(comparison, "native_tier", lambda: "avx2")
    monkeypatch.setattr(comparison, "compare", lambda *_: iter(rows))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7B"], "'7B' is neither ... 15M, 110M, 135M, 1.1B"),
        (["15M", "--runs", "4"], "number of runs is 4 ... at least 5 ... --runs 5"),
        (["15M", "--threads", "0"], "number of threads is 0 ... at least 1"),
        (["15M", "--formats", "int8,fp8"], "no format 'fp8' ... bf16, int8, int4"),
        (["15M", "--formats", ""], "no format '' ... bf16, int8, int4"),
        (["15M", "--works", "training"], "no work 'training' ... prefill, decode"),
    ],
)
def test_what_cannot_be_measured(puna: Puna, arguments: list[str], message: str) -> None:
    result = puna("bench", "inference", *arguments)
    assert (result.code, result.out) == (1, "")
    assert re.search(said(message), result.err)


def test_a_folder_without_peers(puna: Puna, tmp_path: Path) -> None:
    result = puna("bench", "inference", "15M", "--peers", tmp_path)
    assert "llama.cpp/build/bin/llama-bench" in result.err
    assert "docs/inference-benchmark.md" in result.err


def test_a_model_without_its_gguf_file(puna: Puna, tmp_path: Path) -> None:
    tool = tmp_path / "llama.cpp/build/bin/llama-bench"
    tool.parent.mkdir(parents=True)
    tool.touch()
    result = puna("bench", "inference", "15M", "--peers", tmp_path)
    assert "15M-bf16.gguf" in result.err
    assert "gguf_random.py" in result.err


def test_the_table(puna: Puna) -> None:
    text = puna("bench", "inference", "15M").out
    assert "tier avx2" in text
    assert "10 GB/s" in text
    assert "500 GFLOP/s" in text
    assert "other programs took up to 0.2 cores" in text
    assert "100.0" in text
    assert "2.00x" in text
    assert "met" in text
    assert "prefill int8: llama.cpp failed: it ended with code 1" in text


def test_an_int8_cache_is_said_and_held_to_no_bar(puna: Puna) -> None:
    arguments = ("bench", "inference", "15M", "--kv-cache-dtype", "int8")
    assert "medians of 5 runs, Puna's keys and values in int8" in puna(*arguments).out
    found = json.loads(puna(*arguments, "--json").out)
    assert found["int8_cache"] is True
    assert (found["rows"][0]["ratio"], found["rows"][0]["bar"]) == (2.0, None)


def test_the_json(puna: Puna) -> None:
    found = json.loads(puna("bench", "inference", "15M", "--json").out)
    assert (found["model"], found["tier"], found["threads"]) == ("15M", "avx2", 2)
    decode, prefill = found["rows"]
    assert decode["ratio"] == 2.0
    assert decode["bar"]["ratio"] == 1.5
    assert decode["met"] is True
    assert decode["limits"]["reading"] == 1e10
    assert decode["runs"][OURS] == [99.0, 100.0, 101.0]
    assert (prefill["ratio"], prefill["failed"]) == (None, {LLAMA: "it ended with code 1"})
