"""The committed studies: their reports are what their results give, to the byte."""

import shutil
from pathlib import Path

import pytest

from puna.report.study_report import write_study_report
from puna.study.arms import resolve_arms
from puna.study.definition import read_study
from puna.study.results import read_results
from puna.training.stored_recipe import recipe_hash

ROOT = Path(__file__).parents[1]
# demo is the reader's
FINISHED = sorted(
    path.parent.relative_to(ROOT / "studies").as_posix()
    for path in (ROOT / "studies").rglob("results.jsonl")
    if path.parent.name != "demo"
)


def test_six_small_studies_are_kept_with_limits_and_at_least_four_seeds() -> None:
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
    for name in FINISHED:
        study = read_study(ROOT / "studies" / name)
        assert len(study.seeds) >= 4
        assert len(read_results(ROOT / "studies" / name)) == len(study.arms) * len(study.seeds)
        assert study.conclusion


@pytest.mark.parametrize("name", FINISHED)
def test_the_report_is_made_again_to_the_byte(name: str, tmp_path: Path) -> None:
    """REPORT.md, that is; in report.html another version of matplotlib may draw a line elsewhere,
    but nothing is missing.
    """
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
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
    arms = resolve_arms(read_study(folder), folder)
    for record in read_results(folder):
        recipe = arms[record["arm"]].recipe.model_copy(update={"seed": 0})
        assert record["recipe_hash"] == recipe_hash(recipe), record["arm"]
