"""Studies run for real, on a model that trains in a second: gone on with, rejected, alone in their
folder.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from small_study import Here, found, write_study

from puna.cli.study import open_inputs
from puna.errors import ConfigError, TrainingError
from puna.statistics.paired import analyse
from puna.study.definition import Study, read_study
from puna.study.job import Job
from puna.study.results import append_record, complete_runs, read_results
from puna.study.runner import phases, run_study


def schedule(study: Study) -> list[Job]:
    """All jobs of a study with one phase."""
    (phase,) = phases(study)
    return list(phase.jobs)


def run_all(folder: Path) -> list[Job]:
    """The jobs that were done by this call."""
    return [job for job, _ in run_study(read_study(folder), folder, open_inputs, Here())]


def test_every_arm_meets_every_seed_and_takes_its_turn_in_front() -> None:
    study = Study(
        question="?", base="b", baseline="a", arms={"a": (), "b": (), "c": ()}, seeds=(5, 6, 7)
    )
    jobs = schedule(study)
    assert sorted((job.arm, job.seed) for job in jobs) == [
        (arm, seed) for arm in "abc" for seed in (5, 6, 7)
    ]
    assert [job.arm for job in jobs[::3]] == ["a", "b", "c"]
    assert [job.seed for job in jobs] == [5, 5, 5, 6, 6, 6, 7, 7, 7]


def test_a_record_holds_what_the_study_asks_for(finished_study: Path) -> None:
    """Equal arms give equal records, each seed its own."""
    study, records = read_study(finished_study), found(finished_study)
    assert list(records) == [(job.arm, job.seed) for job in schedule(study)]
    assert not [path for path in (finished_study / "runs").iterdir() if path.is_dir()]
    for seed in (3, 4):
        one = records["one", seed]
        assert one == {**records["same", seed], "arm": "one"}
        assert {"bits_per_byte", "loss", "bits_per_byte_2x", "bits_per_byte_numbers"} <= set(one)
        assert one["tokens"] == one["curve"][-1][0] == 4 * 4 * 32
        assert set(one["probes"]) == {"start", "end"}
        for looked in one["probes"].values():
            assert set(looked) == {"activation_norms", "dead_units"}
        assert one["probes"]["start"] != one["probes"]["end"]
        assert records["still", seed]["bits_per_byte"] > one["bits_per_byte"] + 0.1
    assert records["one", 3]["bits_per_byte"] != records["one", 4]["bits_per_byte"]
    assert {record["machine"]["threads"] for record in read_results(finished_study)} == {
        torch.get_num_threads()
    }


def test_equal_arms_find_nothing_and_a_lame_one_is_seen(finished_study: Path) -> None:
    study = read_study(finished_study)
    runs = complete_runs(study, read_results(finished_study))
    analysis = analyse(runs.values(study.metric), study.baseline, study.rule_for(study.metric))
    tests = {comparison.arm: comparison.test for comparison in analysis.comparisons}
    assert {comparison.arm: comparison.verdict for comparison in analysis.comparisons}[
        "same"
    ] == "undecided"
    assert tests["same"] is not None
    assert tests["same"].p_value == 1
    assert tests["still"] is not None
    assert tests["still"].mean_difference > 0.1


def test_what_is_finished_is_not_run_again(study_folder: Path, finished_study: Path) -> None:
    """Stopped after two runs, in whatever way: the next call does the other four, and the whole is
    as if nothing had stopped it.
    """
    study = read_study(study_folder)
    jobs = run_study(study, study_folder, open_inputs, Here())
    begun = [next(jobs)[0], next(jobs)[0]]
    jobs.close()
    (phase,) = phases(study)
    assert phase.unfinished(study_folder) == schedule(study)[2:]
    assert run_all(study_folder) == schedule(study)[2:]
    assert begun == schedule(study)[:2]
    assert found(study_folder) == found(finished_study)


def test_a_finished_study_is_left_alone_whatever_changed_since(
    finished_study: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_study, tmp_path / "study")
    lines = [
        json.loads(line) | {"code_hash": "0" * 16}
        for line in (folder / "results.jsonl").read_text().splitlines()
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_all(folder) == []


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("code_hash", "the code, or PyTorch's version"),
        ("data_hash", "the data or the tokenizer"),
        ("recipe_hash", "the recipe of the arm one"),
    ],
)
def test_results_of_another_kind_are_not_mixed(
    key: str, reason: str, finished_study: Path, study_folder: Path
) -> None:
    append_record(study_folder / "results.jsonl", read_results(finished_study)[0] | {key: "0" * 16})
    before = (study_folder / "results.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=f"{reason} changed since the first runs"):
        run_all(study_folder)
    assert (study_folder / "results.jsonl").read_bytes() == before


def test_a_study_that_another_process_runs_is_rejected(study_folder: Path) -> None:
    (study_folder / "runs").mkdir()
    with (
        FileLock(study_folder / "runs" / "lock"),
        pytest.raises(ConfigError, match="another process is running"),
    ):
        run_all(study_folder)


class Failing(Here):
    """Loses one job, as a machine that dies does."""

    def submit(self, function: Any, /, *arguments: Any) -> Any:
        if arguments[1] == Job("same", 3):
            return super().submit(lambda: 1 / 0)
        return super().submit(function, *arguments)


def test_a_run_that_fails_costs_no_other(study_folder: Path, finished_study: Path) -> None:
    study = read_study(study_folder)
    with pytest.raises(
        TrainingError,
        match=(
            r"1 of 6 runs failed; the same command goes on with them\. same, seed 3: division by"
            r" zero"
        ),
    ):
        list(run_study(study, study_folder, open_inputs, Failing()))
    (phase,) = phases(study)
    assert phase.unfinished(study_folder) == [Job("same", 3)]
    assert run_all(study_folder) == [Job("same", 3)]
    assert found(study_folder) == found(finished_study)


def test_a_diverged_run_is_recorded_as_one(tiny_recipe_file: Path, tmp_path: Path) -> None:
    """Weights that overflow: no metric, no probe at the end, the reason in the record."""
    short = ["train.steps=40", "optimizer.warmup_steps=0"]
    wild = [*short, "optimizer.learning_rate=1e38", "optimizer.clip_norm=1e38"]
    folder = write_study(
        tmp_path / "study", tiny_recipe_file, arms={"one": short, "wild": wild}, seeds=[0, 1]
    )
    run_all(folder)
    for (arm, _), record in found(folder).items():
        assert ("gradients that are not finite" in record["diverged"]) == (arm == "wild")
        assert (record["bits_per_byte"] is None) == (record["loss"] is None) == (arm == "wild")
        assert (record["probes"]["end"] == {}) == (arm == "wild")
