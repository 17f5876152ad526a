"""Tables of speed and of few bits: their figures are those of the dated files below
benchmarks/results.
"""

import json
from typing import Any

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUANTIZATION = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
STEPS = {
    "33.7M bfloat16": "33.7M, 8 x 512 tokens, bfloat16",
    "33.7M float32": "33.7M, 8 x 512 tokens, float32",
    "33.7M float32 AVX2": "the same, held to AVX2",
    "110M float32": "110M, 4 x 1,024 tokens, float32",
    "quickstart": "2.1M with Muon, 16 x 128 tokens, bfloat16",
}
PROGRAMS = ("puna", "puna on torch", "transformers", "transformers compiled")


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a result."""
    path = ROOT / "benchmarks" / "results" / name
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return found


@pytest.mark.parametrize("row", rows("2026-11-29-train-step.json"), ids=lambda row: row["row"])
def test_a_step_stands_in_the_readme(row: dict[str, Any]) -> None:
    rates, memory = row["tokens_per_second"], row["peak_megabytes"]
    cells = [
        f"{rates[name]:,.0f}, {memory[name] / 1000:.1f} GB" if name in rates else ""
        for name in PROGRAMS
    ]
    wanted = f"| {STEPS[row['row']]} | {' | '.join(cells)} |".replace("|  ", "| ")
    assert wanted in README.splitlines()


@pytest.mark.parametrize(
    "row", rows("2026-11-29-quantization-smollm2-135m.json")[1:], ids=lambda row: row["weights"]
)
def test_a_price_stands_on_the_page_of_quantization(row: dict[str, Any]) -> None:
    assert f" | {row['bits']:.2f} | {row['change']:+.2%} | " in QUANTIZATION
