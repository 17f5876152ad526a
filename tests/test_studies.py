"""The committed studies: their reports are what their results give, to the byte."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from puna.report.study_report import write_study_report
from puna.study.arms import resolve_arms
from puna.study.definition import read_study
from puna.study.provenance import rule_is_older
from puna.study.results import complete_runs, read_results
from puna.study.tuning import further_overrides
from puna.training.stored_recipe import recipe_hash

ROOT = Path(__file__).parents[1]
# those with a report; of others the runs are still being made, and demo is the reader's
FINISHED = sorted(
    path.parent.relative_to(ROOT / "studies").as_posix()
    for path in (ROOT / "studies").rglob("REPORT.md")
    if path.parent.name != "demo"
)
LARGER = [name for name in FINISHED if "/" not in name]
DEFINED = sorted(
    path.parent.relative_to(ROOT / "studies").as_posix()
    for path in (ROOT / "studies").rglob("study.yaml")
)


@pytest.mark.parametrize("name", DEFINED)
def test_a_definition_resolves(name: str) -> None:
    """At every stage, whatever its arms are tuned to."""
    folder = ROOT / "studies" / name
    study = read_study(folder)
    for overrides in study.stages.values():
        assert list(resolve_arms(study, folder, dict.fromkeys(study.arms, overrides)))


def test_six_small_studies_are_kept_with_limits() -> None:
    small = [name for name in FINISHED if name.startswith("small/")]
    assert small == [
        "small/digits",
        "small/glu-variants",
        "small/model-or-data",
        "small/normalization",
        "small/placement-warmup",
        "small/positions",
    ]
    for name in small:
        assert read_study(ROOT / "studies" / name).limits


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_study_has_all_its_runs_and_a_conclusion(name: str) -> None:
    folder = ROOT / "studies" / name
    study = read_study(folder)
    runs = complete_runs(study, read_results(folder))
    assert len(study.seeds) >= 3
    assert len(runs) == len(study.arms) * len(study.seeds)
    assert study.conclusion


@pytest.mark.parametrize("name", LARGER)
def test_a_definition_is_older_than_its_runs(name: str) -> None:
    folder = ROOT / "studies" / name
    study, records = read_study(folder), read_results(folder)
    assert {record["rule"] for record in records} == {study.hash}
    assert all(rule_is_older(record) for record in records)
    assert len({record["code_hash"] for record in records}) == 1


@pytest.mark.parametrize("name", FINISHED)
def test_the_report_is_made_again_to_the_byte(name: str, tmp_path: Path) -> None:
    """REPORT.md, that is; in report.html another version of matplotlib may draw a line elsewhere,
    but nothing is missing.
    """
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "studies").mkdir()
    shutil.copy(ROOT / "studies" / "recipe.yaml", tmp_path / "studies")
    folder = shutil.copytree(ROOT / "studies" / name, tmp_path / "studies" / name)
    for file in ("REPORT.md", "report.html"):
        (folder / file).unlink()
    write_study_report(folder)
    assert (folder / "REPORT.md").read_bytes() == (
        ROOT / "studies" / name / "REPORT.md"
    ).read_bytes()
    committed, made = (
        (path / "report.html").read_text(encoding="utf-8")
        for path in (ROOT / "studies" / name, folder)
    )
    assert made.count("<svg") == committed.count("<svg") > 0


@pytest.mark.parametrize("name", FINISHED)
def test_the_recipes_are_those_that_ran(name: str) -> None:
    """Each record's recipe has the hash that its arm has now: a new key or choice changes none."""
    folder = ROOT / "studies" / name
    study = read_study(folder)
    for stage in study.stages:
        arms = resolve_arms(study, folder, further_overrides(study, folder, stage))
        for record in read_results(folder):
            if record.get("stage", "") != stage:
                continue
            recipe = arms[record["arm"]].recipe.model_copy(update={"seed": 0})
            assert record["recipe_hash"] == recipe_hash(recipe), record["arm"]


@pytest.mark.parametrize("name", LARGER)
def test_every_contrast_is_what_scipy_makes_of_the_results(name: str) -> None:
    """Estimate, interval and p-value of each row, and of each arm against the baseline, from
    results.jsonl with numpy and scipy alone.
    """
    folder = ROOT / "studies" / name
    study, text = read_study(folder), (folder / "REPORT.md").read_text(encoding="utf-8")
    runs = complete_runs(study, read_results(folder))

    def of(arm: str, metric: str) -> np.ndarray[Any, Any]:
        if metric in study.outcomes:
            outcome = study.outcomes[metric]
            values = np.array([run[outcome.metric] for run in runs.by_arm[arm]], float)
            return np.where(values <= outcome.above, 0.0, 1.0)
        return np.array([run[metric] for run in runs.by_arm[arm]], float)

    found = {}
    for title, contrast in study.contrasts.items():
        pick = np.mean if contrast.pick == "mean" else np.nanmin
        found[title] = sum(
            weight * pick([of(arm, contrast.of or study.metric) for arm in arms], axis=0)
            for weight, arms in contrast.groups(list(study.arms))
        )
    secondary = [title for title, contrast in study.contrasts.items() if not contrast.primary]
    adjusted = holm([found[title] for title in secondary])
    for title, values in found.items():
        alone = p_of(values)
        p = adjusted[secondary.index(title)] if title in secondary else alone
        marked = title if title in secondary else f"{title} (primary)"
        cells = row(text, "Contrasts", marked)
        assert cells[3:5] == shown(values), title
        assert cells[6] == ("< 0.001" if p < 0.001 else f"{p:.3f}"), title
    arms = [arm for arm in study.arms if arm != study.baseline]
    differences = [of(arm, study.metric) - of(study.baseline, study.metric) for arm in arms]
    for arm, values, p in zip(arms, differences, holm(differences), strict=True):
        cells = row(text, "Differences", arm)
        assert cells[2:4] == shown(values)
        assert cells[4] == ("< 0.001" if p < 0.001 else f"{p:.3f}")


def p_of(values: np.ndarray[Any, Any]) -> float:
    """By Student's t, or by the exact sign test where all values are alike."""
    if np.ptp(values) > 0:
        return float(stats.ttest_1samp(values, 0).pvalue)
    return float(stats.binomtest(len(values), len(values)).pvalue) if values[0] else 1.0


def shown(values: np.ndarray[Any, Any]) -> list[str]:
    if np.ptp(values) == 0:
        return [f"{values.mean():+.4f}", "none: all seeds alike"]
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    return [f"{values.mean():+.4f}", f"{low:+.4f} to {high:+.4f}"]


def holm(samples: list[np.ndarray[Any, Any]]) -> list[float]:
    p = np.array([p_of(values) for values in samples])
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted.tolist()


def row(text: str, section: str, first: str) -> list[str]:
    lines = text.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    found = next(line for line in lines if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in found.strip("|").split(" | ")]
