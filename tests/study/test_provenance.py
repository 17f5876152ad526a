"""Commits of rule and code, in repositories made for the purpose."""

import datetime
import os
import subprocess
from pathlib import Path

import pytest
from small_study import write_study

from puna.study.definition import read_study
from puna.study.provenance import provenance, rule_is_older

DATE = "2026-01-02T03:04:05+00:00"


def git(folder: Path, *arguments: str) -> str:
    """What git prints, by a committer whose clock stands at DATE."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        **{f"GIT_{who}_{what}": "puna" for who in ("AUTHOR", "COMMITTER") for what in
           ("NAME", "EMAIL")},
        **{f"GIT_{who}_DATE": DATE for who in ("AUTHOR", "COMMITTER")},
    }  # fmt: skip
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture(autouse=True)
def no_repository_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the folder of the tests stood in no repository, and no hook had named one."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for key in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A study with its base recipe beside it, all of it in one commit."""
    (tmp_path / "base.yaml").write_text("seed: 1\n")
    folder = write_study(tmp_path / "study", Path("../base.yaml"))
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Define the study")
    return folder


def change(folder: Path, file: str) -> None:
    """Another file of the study's repository, or a change of one that is there."""
    path = folder / file
    path.write_text((path.read_text() if path.exists() else "") + "# changed\n")


def test_the_rule_is_that_of_the_last_commit_of_study_or_base(committed: Path) -> None:
    study, first = read_study(committed), git(committed, "rev-parse", "HEAD")
    rule = {"rule": study.hash, "rule_commit": first, "rule_date": DATE}
    assert provenance(study, committed) == {**rule, "commit": first}

    change(committed, "results.jsonl")
    git(committed, "add", ".")
    git(committed, "commit", "-q", "-m", "Add a result")
    second = git(committed, "rev-parse", "HEAD")
    assert provenance(study, committed) == {**rule, "commit": second}

    change(committed, "../base.yaml")
    git(committed, "commit", "-q", "-a", "-m", "Change the base")
    third = git(committed, "rev-parse", "HEAD")
    assert provenance(study, committed)["rule_commit"] == third


@pytest.mark.parametrize("file", ["study.yaml", "../base.yaml"])
def test_a_rule_with_changes_that_are_not_committed_has_no_commit(
    file: str, committed: Path
) -> None:
    change(committed, file)
    found = provenance(read_study(committed), committed)
    assert (found["rule_commit"], found["rule_date"]) == (None, None)
    assert found["commit"] == git(committed, "rev-parse", "HEAD")
    git(committed, "add", "-A")
    assert provenance(read_study(committed), committed)["rule_commit"] is None


def test_changes_of_other_files_do_not_count(committed: Path) -> None:
    change(committed, "results.jsonl")
    change(committed, "../notes.md")
    assert provenance(read_study(committed), committed)["rule_date"] == DATE


def test_a_rule_that_was_never_committed_has_none(committed: Path) -> None:
    other = write_study(committed.parent / "other", Path("../base.yaml"))
    assert provenance(read_study(other), other)["rule_commit"] is None


def test_outside_a_repository_there_is_only_the_rule(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "study", Path("base.yaml")))
    nothing = dict.fromkeys(["commit", "rule_commit", "rule_date"])
    assert provenance(study, tmp_path / "study") == {"rule": study.hash, **nothing}


def test_without_git_too(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    study = read_study(committed)
    assert provenance(study, committed)["commit"] is None


@pytest.mark.parametrize(
    ("date", "older"),
    [
        (DATE, True),
        ("2026-01-02T04:04:05+01:00", True),  # the same moment elsewhere
        ("2026-01-02T03:04:06-01:00", False),  # an hour after the run had begun
        ("2026-01-02T03:04:10+00:00", False),
        (None, False),
    ],
)
def test_a_rule_is_older_by_the_moment_and_not_by_the_digits(date: str | None, older: bool) -> None:
    assert rule_is_older({"rule_date": date, "started": "2026-01-02T03:04:10+00:00"}) is older


def test_a_record_of_before_rules_were_recorded_says_nothing_of_one() -> None:
    assert not rule_is_older({"arm": "a", "seed": 0})


def test_a_rule_committed_now_is_older_than_a_run_started_later(committed: Path) -> None:
    found = provenance(read_study(committed), committed)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    assert rule_is_older({**found, "started": started})
