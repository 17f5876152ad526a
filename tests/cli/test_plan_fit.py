"""`puna plan fit`: a results file in, constants with intervals out."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import said

from puna.plan.scaling import LAWS

Puna = Callable[..., Any]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Twenty runs that follow Epoch's constants with 0.1% of noise, between lines that are none."""
    law, rng = LAWS["epoch"], np.random.default_rng(3)
    lines = ['{"kind": "train", "loss": 3.1}']
    for parameters in (5e7, 2e8, 1e9, 4e9):
        for ratio in (2, 8, 20, 60, 200):
            loss = law.E + law.A / parameters**law.alpha + law.B / (parameters * ratio) ** law.beta
            lines.append(
                json.dumps(
                    {
                        "parameters": parameters,
                        "tokens": parameters * ratio,
                        "loss": loss * np.exp(0.001 * rng.normal()),
                    }
                )
            )
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_constants_come_with_intervals_that_hold_them(results: Path, puna: Puna) -> None:
    result = puna("plan", "fit", results, "--resamples", 60)
    assert (result.code, result.err) == (0, "")
    first = (
        "20 runs of 50M to 4B parameters on 100M to 800B tokens; lines without parameters, tokens"
        " and loss: 1\n"
    )
    assert result.out.startswith(first)
    rows = {
        line.split()[0]: line.split()[1:]
        for line in result.out.splitlines()
        if " to " in line and not line.startswith("20 runs")
    }
    for name in ("E", "A", "B", "alpha", "beta"):
        fit, low, _, high = (float(word) if word != "to" else 0.0 for word in rows[name])
        assert low <= fit <= high
        assert low < getattr(LAWS["epoch"], name) < high
    a, b = (line.split()[-4:] for line in result.out.splitlines() if line.startswith("optimal"))
    assert float(a[0]) + float(b[0]) == pytest.approx(1, abs=2e-4)
    assert float(a[1]) < LAWS["epoch"].exponents[0] < float(a[3])
    assert "60 bootstrap samples, seed 0" in result.out


def test_the_same_seed_prints_the_same_numbers(results: Path, puna: Puna) -> None:
    one, again, other = (
        puna("plan", "fit", results, "--resamples", 5, "--seed", seed).out for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('{"loss": 2.0, "tokens": 5}', 1, "1 lines ... parameters, tokens, loss"),
        (
            "\n".join(['{"parameters": 1e6, "tokens": 2e7, "loss": 3.0}'] * 5),
            1,
            "at least 6 runs",
        ),
        (
            "\n".join(f'{{"parameters": 1e6, "tokens": {d}e7, "loss": 3.0}}' for d in range(1, 9)),
            1,
            "8 runs ... 1 different ... parameters",
        ),
        ("parameters,tokens,loss", 1, "line 1 ... JSON"),
    ],
)
def test_results_that_cannot_be_fitted(
    text: str, code: int, message: str, puna: Puna, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text, encoding="utf-8")
    result = puna("plan", "fit", path)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert re.search(said(message), result.err)
    assert result.err.count("\n") == 1


def test_a_missing_file_is_one_line(puna: Puna, tmp_path: Path) -> None:
    result = puna("plan", "fit", tmp_path / "gone.jsonl")
    assert (result.code, result.err) == (
        1,
        f"error: No such file or directory: {tmp_path / 'gone.jsonl'}\n",
    )
