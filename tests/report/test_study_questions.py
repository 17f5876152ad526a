"""What a report says of contrasts, outcomes, times, equivalence, tuning, levels and where the runs
come from, each recomputed here with scipy and numpy alone.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_study import DOCUMENTS, make_study
from said import said
from scipy import stats

from puna.errors import DataError
from puna.report.study_report import write_study_report
from puna.study.definition import read_study
from puna.study.results import read_results

SEEDS = list(range(8))
ARMS = ["relu", "gelu", "reglu", "geglu"]
TERMS = {"reglu|geglu": 1, "relu|gelu": -1}


def level(arm: int, seed: int) -> float:
    """A gate buys 0.03, GELU 0.01; each run has a wobble of its own."""
    wobble = math.sin(7.3 * arm + 2.1 * seed) + math.sin(5.9 * seed)
    return 2.0 - 0.03 * (arm > 1) - 0.01 * (arm % 2) + 0.004 * wobble


def gates(folder: Path, **keys: Any) -> Path:
    return make_study(folder, ARMS, truth=level, seeds=SEEDS, timed=[], **keys)


def report(folder: Path) -> str:
    write_study_report(folder)
    return (folder / "REPORT.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def cells(text: str, first: str) -> list[str]:
    found = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def by_arm(folder: Path, key: str = "bits_per_byte") -> dict[str, np.ndarray[Any, Any]]:
    records = read_results(folder)
    return {
        arm: np.array([record[key] for record in records if record["arm"] == arm]) for arm in ARMS
    }


def interval(values: np.ndarray[Any, Any], confidence: float = 0.95) -> str:
    low, high = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    return f"{low:+.4f} to {high:+.4f}"


def test_a_contrast_and_the_family_of_the_others(tmp_path: Path) -> None:
    contrasts = {
        "gate": {"meaning": "gated minus ungated", "terms": TERMS, "primary": True},
        "gelu": {"terms": {"gelu|geglu": 1, "relu|reglu": -1}},
        "gate x gelu": {"terms": {"geglu": 1, "gelu": -1, "reglu": -1, "relu": 1}},
    }
    folder = gates(tmp_path, contrasts=contrasts)
    text, runs = section(report(folder), "Contrasts"), by_arm(folder)
    gate = (runs["reglu"] + runs["geglu"] - runs["relu"] - runs["gelu"]) / 2
    gelu = (runs["gelu"] + runs["geglu"] - runs["relu"] - runs["reglu"]) / 2
    both = runs["geglu"] - runs["gelu"] - runs["reglu"] + runs["relu"]
    assert cells(text, "gate (primary)")[:5] == [
        "gate (primary)",
        "gated minus ungated",
        "`bits_per_byte`",
        f"{gate.mean():+.4f}",
        interval(gate),
    ]
    assert cells(text, "gate (primary)")[6] == "< 0.001"
    assert cells(text, "gate (primary)")[8] == "below 0"
    p = [stats.ttest_1samp(values, 0).pvalue for values in (gelu, both)]
    holm = [max(2 * min(p), value) if value != min(p) else 2 * min(p) for value in p]
    for name, values, adjusted in zip(("gelu", "gate x gelu"), (gelu, both), holm, strict=True):
        assert cells(text, name)[3:5] == [f"{values.mean():+.4f}", interval(values)]
        shown = "< 0.001" if adjusted < 0.001 else f"{min(1.0, adjusted):.3f}"
        assert cells(text, name)[6] == shown
    assert "of 8 seeds none say the opposite or nothing" in text


def test_the_interval_over_documents_is_of_the_bits_of_each(tmp_path: Path) -> None:
    """An arm that is better on one document alone: other documents may say otherwise, whatever the
    seeds say.
    """
    folder = gates(tmp_path, contrasts={"gate": {"terms": TERMS, "primary": True}}, baselines=True)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    sizes = np.array([size for size, _ in DOCUMENTS])
    for line in lines:
        gated = line["arm"] in ("reglu", "geglu")
        bits = 2.0 * sizes
        bits[0] -= 0.03 * sizes.sum() * gated
        line["documents"] = bits.tolist()
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = section(report(folder), "Contrasts")
    row = cells(text, "gate (primary)")
    low, high = map(float, row[5].split(" to "))
    # drawn three times, or not at all: -0.03 x 7000 / 1000, and 0
    assert low == pytest.approx(-0.21, abs=1e-4)
    assert high == 0
    assert row[8] == "below 0, but other documents may say otherwise"
    assert "+0.0000 where only the documents are" in text.replace("-0.0000", "+0.0000")


def test_the_best_of_several_arms_at_each_seed(tmp_path: Path) -> None:
    folder = gates(tmp_path, contrasts={"best": {"terms": TERMS, "pick": "best", "primary": True}})
    runs = by_arm(folder)
    best = np.minimum(runs["reglu"], runs["geglu"]) - np.minimum(runs["relu"], runs["gelu"])
    row = cells(section(report(folder), "Contrasts"), "best (primary)")
    assert row[3:5] == [f"{best.mean():+.4f}", interval(best)]


def test_the_primary_contrast_at_each_look(tmp_path: Path) -> None:
    """The made-up looks lie above the end by the same in all arms, so the contrast stays."""
    folder = gates(
        tmp_path, contrasts={"gate": {"terms": TERMS, "primary": True}}, looks=[0.25, 0.5]
    )
    text = section(report(folder), "Contrasts")
    rows = [cells(text, share) for share in ("25%", "50%", "100%")]
    assert rows[0][1:] == rows[1][1:] == rows[2][1:] == cells(text, "gate (primary)")[3:5]


def test_failed_runs_are_counted(tmp_path: Path) -> None:
    """With the share as a contrast too; a run that diverged has failed."""
    factors = {
        "placement": {"pre": ["model.placement=pre"], "post": ["model.placement=post"]},
        "warm-up": {"cold": ["optimizer.warmup_steps=0"], "warm": ["optimizer.warmup_steps=4"]},
    }
    failed = {"post cold": 5, "post warm": 1, "pre cold": 0, "pre warm": 0}
    names = ["pre cold", "pre warm", "post cold", "post warm"]
    folder = make_study(
        tmp_path,
        names,
        truth=lambda arm, seed: 3.0 if seed < failed[names[arm]] else 2.0 + 0.01 * math.sin(seed),
        diverged={"post cold": [0]},
        seeds=SEEDS,
        timed=[],
        factors=factors,
        overrides={
            f"{placement} {warm}": [*changes, *others]
            for placement, changes in factors["placement"].items()
            for warm, others in factors["warm-up"].items()
        },
        outcomes={"failed": {"metric": "bits_per_byte", "above": 2.5}},
        contrasts={
            "need": {
                "terms": {"post cold": 1, "post warm": -1, "pre cold": -1, "pre warm": 1},
                "of": "failed",
                "primary": True,
            }
        },
    )
    text = report(folder)
    counts = section(text, "Outcomes")
    p = stats.fisher_exact([[5, 3], [0, 8]]).pvalue
    low, high = stats.binomtest(5, 8).proportion_ci(method="wilson")
    assert cells(counts, "post cold") == [
        "post cold",
        "5 of 8",
        f"{low:.0%} to {high:.0%}",
        f"{p:.3f}",
    ]
    assert cells(counts, "post |")[1].startswith("5 of 8")
    need = np.array([float(seed < 5) - float(seed < 1) for seed in SEEDS])
    row = cells(section(text, "Contrasts"), "need (primary)")
    assert row[2:5] == ["`failed`", f"{need.mean():+.4f}", interval(need)]


@pytest.mark.parametrize(("metric", "failed"), [("bits_per_byte", 1), ("recall_480", 0)])
def test_a_run_that_diverged_has_the_worse_outcome(
    metric: str, failed: int, tmp_path: Path
) -> None:
    """Above the level where less is better, and not above it where more is."""
    folder = make_study(
        tmp_path,
        ARMS,
        truth=lambda arm, seed: 0.1 + 0.001 * (arm + seed),
        diverged={"gelu": [3]},
        seeds=SEEDS,
        timed=[],
        also=["recall_480"],
        outcomes={"above": {"metric": metric, "above": 0.5}},
    )
    assert cells(section(report(folder), "Outcomes"), "gelu")[1] == f"{failed} of 8"


def test_times_to_a_level(tmp_path: Path) -> None:
    """At the looks a run lies 1 - share above its end: relu never gets to 2.3, reglu at the end."""
    ends = {"relu": 2.4, "gelu": 2.2, "reglu": 2.2, "geglu": 1.9}
    folder = make_study(
        tmp_path,
        ARMS,
        truth=lambda arm, seed: ends[ARMS[arm]] + 0.001 * seed,
        seeds=SEEDS,
        timed=[],
        looks=[0.25, 0.5, 0.75],
        times={"to 2.3": {"metric": "bits_per_byte", "level": 2.3}},
    )
    text = section(report(folder), "Times to a level")
    assert cells(text, "relu")[1:3] == ["0 of 8", "not reached"]
    assert cells(text, "gelu")[1:3] == ["8 of 8", "100%"]
    assert cells(text, "geglu")[1:3] == ["8 of 8", "75%"]


def test_arms_within_a_margin_are_equivalent(tmp_path: Path) -> None:
    folder = gates(tmp_path, rule={"equivalence_margin": 0.02})
    text, runs = section(report(folder), "Equivalence"), by_arm(folder)
    p = {}
    for arm in ARMS[1:]:
        difference = runs[arm] - runs["relu"]
        p[arm] = max(
            stats.ttest_1samp(difference, -0.02, alternative="greater").pvalue,
            stats.ttest_1samp(difference, 0.02, alternative="less").pvalue,
        )
        assert cells(text, arm)[1:3] == [f"{difference.mean():+.4f}", interval(difference, 0.9)]
    assert [cells(text, arm)[4] for arm in ARMS[1:]] == ["equivalent", "not shown", "not shown"]
    assert p["gelu"] < 0.05 / 3


def test_all_arms_together(tmp_path: Path) -> None:
    folder = gates(tmp_path)
    text, runs = section(report(folder), "All arms together"), by_arm(folder)
    table = np.array(list(runs.values()))
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    spread = math.sqrt((residuals**2).sum() / 21)
    assert f"a residual standard deviation of {spread:.4f} bits per byte with 21 degrees" in text
    half = stats.t.ppf(0.975, 21) * spread * math.sqrt(2 / 8)
    difference = runs["geglu"].mean() - runs["relu"].mean()
    assert cells(text, "geglu")[1:3] == [
        f"{difference:+.4f}",
        f"{difference - half:+.4f} to {difference + half:+.4f}",
    ]


def test_levels_stand_among_counting_and_compression(tmp_path: Path) -> None:
    text = section(report(gates(tmp_path, baselines=True)), "Levels")
    order = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line[:2] == "| "][2:]
    assert order == [
        "geglu",
        "reglu",
        "gelu",
        "relu",
        "*PPMd*",
        "*zstd -22*",
        "*5-gram*",
        "*bigram*",
        "*unigram*",
    ]
    assert "7,000 bytes in 3 documents" in text
    assert "the 249,856 tokens of 0.8 of 1.6 MB of the training text" in text
    assert "compressors that have read these first, which learn" in text


def test_compressors_of_an_earlier_release_have_read_nothing(tmp_path: Path) -> None:
    folder = gates(tmp_path, baselines=True)
    found = json.loads((folder / "baselines.json").read_text())
    del found["read_bytes"], found["all_bytes"]
    (folder / "baselines.json").write_text(json.dumps(found))
    text = section(report(folder), "Levels")
    assert "the 249,856 tokens that the baseline's first run was trained on, and compr" in text


def test_baselines_of_another_text_are_rejected(tmp_path: Path) -> None:
    folder = gates(tmp_path, baselines=True, origin={"text_hash": "e"})
    with pytest.raises(DataError, match=said("is of the text d, but runs were scored on e")):
        write_study_report(folder)


ORIGIN = {
    "commit": "1234567890abcdef",
    "rule_commit": "fedcba0987654321",
    "rule_date": "2026-11-28T09:00:00+00:00",
    "started": "2026-11-28T09:30:00+00:00",
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "commit `fedcba098765` of 2026-11-28 09:00, older than the first run"),
        ({"started": "2026-11-28T08:59:00+00:00"}, "was not committed before the first run"),
        ({"rule_commit": None, "rule_date": None}, "was not committed before the first run"),
        ({"rule": "another"}, "**The definition changed after 32 of the runs**"),
    ],
)
def test_a_report_names_the_commit_of_its_rule(
    change: Mapping[str, Any], line: str, tmp_path: Path
) -> None:
    rule = read_study(gates(tmp_path)).hash
    text = section(report(gates(tmp_path, origin={**ORIGIN, "rule": rule, **change})), "Protocol")
    assert line in text
    assert "code at commit `1234567890ab`" in text
    assert "on Made-up 1, torch 2.13.0" in text
    assert "- Tokens a parameter: 0.249 to 0.25" in text


def test_the_grid_of_a_tuned_arm(tmp_path: Path) -> None:
    """The best point in bold; one at the end of its axis is named."""
    grid = {"optimizer.learning_rate": [1e-3, 2e-3, 4e-3]}
    folder = gates(tmp_path, tune={"grid": grid, "seeds": [100]})
    best = {"relu": 2e-3, "gelu": 1e-3, "reglu": 2e-3, "geglu": 4e-3}
    (folder / "tuning.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "arm": arm,
                    "seed": 100,
                    "point": [f"optimizer.learning_rate={rate}"],
                    "bits_per_byte": 2.0 + abs(math.log(rate / best[arm])),
                }
            )
            + "\n"
            for arm in ARMS
            for rate in grid["optimizer.learning_rate"]
        )
    )
    text = section(report(folder), "Tuning")
    assert cells(text, "relu")[1:] == ["2.6931", "**2.0000**", "2.6931"]
    assert "may lie beyond: gelu (`learning_rate=0.001`), geglu (`learning_rate=0.004`)." in text
