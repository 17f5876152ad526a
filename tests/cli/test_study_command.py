"""`puna study`: what report and list print and write, and a run up to a stage."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_study import make_study
from said import said
from small_study import Here

from puna.study.results import append_record, read_results


def test_the_command_writes_both_files_and_equal_folders_give_equal_ones(
    puna: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_study(tmp_path, ["a", "[b]"])
    result = puna("study", "report", folder)
    assert (result.code, result.err) == (0, "")
    assert "[b]" in result.out
    assert f"report  {folder / 'REPORT.md'}\npage    {folder / 'report.html'}\n" in result.out
    first = [(folder / name).read_bytes() for name in ("REPORT.md", "report.html")]
    puna("study", "report", folder)
    assert [(folder / name).read_bytes() for name in ("REPORT.md", "report.html")] == first


def test_missing_runs_are_one_line_and_nothing_is_written(
    puna: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_study(tmp_path, ["a", "b"])
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:-1]))
    assert json.loads(lines[-1])["seed"] == 3
    result = puna("study", "report", folder)
    assert result.code == 1
    assert (
        result.err
        == "error: arm b lacks seed 3, and differences are paired: puna study run FOLDER does the"
        " missing runs\n"
    )
    assert not (folder / "REPORT.md").exists()


NORMS = ("rmsnorm", "none")


def make_staged(folder: Path, recipe: Path) -> Path:
    """Two arms, tuned over two rates, in two stages of two seeds; steps that take a moment."""
    study = {
        "question": "Does a norm matter?",
        "base": str(recipe),
        "baseline": "rmsnorm",
        "arms": {arm: [f"model.norm={arm}", "optimizer.warmup_ratio=0"] for arm in NORMS},
        "tune": {
            "grid": {"optimizer.learning_rate": [1e-3, 1e-2]},
            "seeds": [9],
            "overrides": ["train.steps=1"],
        },
        "stages": {"quarter": ["train.steps=2"], "full": ["train.steps=8"]},
        "seeds": [0, 1],
        "step_times": [],
    }
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


def test_a_study_is_run_up_to_a_stage_and_no_further(
    puna: Callable[..., Any],
    tiny_recipe_file: Path,
    tiny_inputs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the lowest priority, with a forecast, and a report of that stage in the end."""
    asked: list[tuple[int, int, bool]] = []

    @contextmanager
    def here(jobs: int, threads: int, *, nice: bool = False) -> Iterator[Here]:
        asked.append((jobs, threads, nice))
        yield Here()

    monkeypatch.setattr("puna.study.runner.local_executor", here)
    for module in ("job", "runner"):
        monkeypatch.setattr(f"puna.study.{module}.code_hash", lambda: "0" * 16)
    folder = make_staged(tmp_path / "study", tiny_recipe_file)
    options = ("--jobs", 2, "--threads", 1, "--nice", "--stage", "quarter")
    first = puna("study", "run", folder, *options)
    assert (first.code, first.err) == (0, "")
    assert said_in("8 of 8 runs to do, 2 at a time, about", first.out)
    assert "4 of 8  none, seed 9 with optimizer.learning_rate=0.01: " in first.out
    assert said_in("8 of 8 ... quarter, seed 1: ... bits per byte", first.out)
    assert asked == [(2, 1, True)]
    assert {record["stage"] for record in read_results(folder)} == {"quarter"}
    assert len((folder / "tuning.jsonl").read_text().splitlines()) == 4
    assert (folder / "REPORT.md").exists()

    assert "4 of 8" in puna("study", "list", tmp_path).out


def test_a_stage_that_does_not_exist_is_named_before_anything_is_run(
    puna: Callable[..., Any], tiny_recipe_file: Path, tmp_path: Path
) -> None:
    folder = make_staged(tmp_path / "study", tiny_recipe_file)
    result = puna("study", "run", folder, "--stage", "half")
    assert result.code == 1
    assert result.err == "error: there is no stage 'half'; the stages are quarter, full\n"
    assert not (folder / "runs").exists()


def test_a_study_without_stages_has_none_to_run_up_to(
    puna: Callable[..., Any], tiny_recipe_file: Path, tmp_path: Path
) -> None:
    folder = make_staged(tmp_path / "study", tiny_recipe_file)
    values = yaml.safe_load((folder / "study.yaml").read_text())
    del values["stages"]
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    result = puna("study", "run", folder, "--stage", "half")
    assert result.code == 1
    assert "no stage 'half'; this study has none, so leave it out" in result.err


def test_the_list_counts_the_runs_of_every_stage(puna: Callable[..., Any], tmp_path: Path) -> None:
    """Runs that tune are in another file, and no part of the count."""
    stages = {"quarter": ["train.steps=122"], "full": []}
    folder = make_study(tmp_path / "staged", ["a", "b"], stages=stages)
    make_study(tmp_path / "plain", ["a", "b", "c"])
    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("")
    for line in lines:
        append_record(folder / "results.jsonl", json.loads(line) | {"stage": "quarter"})
    append_record(folder / "results.jsonl", json.loads(lines[0]) | {"stage": "full"})
    out = puna("study", "list", tmp_path).out
    assert "9 of 16" in out
    assert "12 of 12" in out


def said_in(parts: str, text: str) -> bool:
    return re.search(said(parts), text) is not None
