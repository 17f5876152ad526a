"""Tables of the quickstart's search: for each corpus and budget the variants, best first.

    python benchmarks/quickstart/report.py [--results FILE]

Bits per byte of held-out text; the difference to the default is the mean over the seeds that both
have, with the 95% interval of a paired t test and Holm's p-value over the variants of the table
that have two such seeds or more. A variant with one seed was screened, not tested.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from variants import DEFAULT

from puna.statistics.paired import DecisionRule, PairedTest, analyse, holm

Bits = Mapping[str, Mapping[int, float | None]]
"""Bits per byte by variant and seed; None where the run diverged."""


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results so far; a line that was cut off by a kill is passed over."""
    found = []
    written = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in filter(None, written):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"passed over in {path}: {line[:60]}")
    return found


def by_table(results: list[dict[str, Any]]) -> Mapping[tuple[str, int], Bits]:
    """The results of each corpus and budget; the last of several of one variant and seed counts."""
    tables: dict[tuple[str, int], dict[str, dict[int, float | None]]] = {}
    for result in results:
        table = tables.setdefault((result["corpus"], result["budget"]), {})
        table.setdefault(result["variant"], {})[result["seed"]] = result["bits_per_byte"]
    return tables


def paired(bits: Bits) -> dict[str, PairedTest]:
    """The test of each variant on the seeds that it shares with the default, not adjusted; without
    those that diverged or share fewer than two.
    """
    tests = {}
    for name, runs in bits.items():
        seeds = sorted(runs.keys() & bits.get(DEFAULT, {}).keys())
        if name == DEFAULT or len(seeds) < 2:
            continue
        pair = {arm: {seed: bits[arm][seed] for seed in seeds} for arm in (DEFAULT, name)}
        (comparison,) = analyse(pair, DEFAULT, DecisionRule()).comparisons
        if comparison.test is not None:
            tests[name] = comparison.test
    return tests


def lines(bits: Bits) -> Iterator[str]:
    """The table of one corpus and budget, in Markdown."""
    tests = paired(bits)
    adjusted = dict(zip(tests, holm(test.p_value for test in tests.values()), strict=True))
    default = bits.get(DEFAULT, {})
    yield "| variant | seeds | bits per byte | difference | 95% interval | p (Holm) |"
    yield "|---|---|---|---|---|---|"
    rows = []
    for name, runs in bits.items():
        values = [value for value in runs.values() if value is not None]
        mean = statistics.fmean(values) if len(values) == len(runs) else None
        shared = [
            value - base
            for seed, value in runs.items()
            if value is not None and (base := default.get(seed)) is not None
        ]
        difference = statistics.fmean(shared) if shared and mean is not None else None
        rows.append((difference, mean, name))
    for difference, mean, name in sorted(rows, key=lambda row: (row[0] is None, row[0] or 0.0)):
        test = tests.get(name)
        interval = "{:+.4f} to {:+.4f}".format(*test.confidence_interval) if test else ""
        cells = (
            name,
            str(len(bits[name])),
            "diverged" if mean is None else f"{mean:.4f}",
            "" if difference is None or name == DEFAULT else f"{difference:+.4f}",
            interval,
            f"{adjusted[name]:.3f}" if name in adjusted else "",
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = Path(__file__).parent / "results.jsonl"
    parser.add_argument("--results", type=Path, default=results)
    found = read_results(parser.parse_args().results)
    for (corpus, budget), bits in by_table(found).items():
        print(f"\n{corpus}, as long as {budget} steps of the default\n")
        print("\n".join(lines(bits)))


if __name__ == "__main__":
    main()
