"""The rule of commit messages, and which commits it is asked of."""

import os
import subprocess
from pathlib import Path

import check_commits
import pytest
from check_commits import RULE_SINCE, faults, find_range, main

BODY = "\n\nBecause of this and that.\n"


@pytest.mark.parametrize(
    "subject",
    [
        "Add a test",
        "Pass the mesh to parallelize_fn",
        "Process batches in order",
        "Feed the loader twice",
        "Embed tokens before the first layer",
        "Bring back the flag",
        "Focus the error on its value",
        'Revert "Use 3 ranks"',
        "Use " + 68 * "x",
    ],
)
def test_good_subjects_pass(subject: str) -> None:
    assert faults(subject + BODY) == []


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("Added a test" + BODY, "'Added'"),
        ("Fixes the loader" + BODY, "'Fixes'"),
        ("Refactoring of the loader" + BODY, "'Refactoring'"),
        ("Docs: a typo" + BODY, "'Docs'"),
        ("add a test" + BODY, "capital"),
        ("Add a test." + BODY, "period"),
        ("Use " + 69 * "x" + BODY, "73"),
        ("Add a test", "body"),
        ("Add a test\n\n  \n", "body"),
    ],
)
def test_each_fault_is_told_once(message: str, word: str) -> None:
    (fault,) = faults(message)
    assert word in fault


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository in the place of ours."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(check_commits, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def commit(repository: Path, message: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    words = ["commit", "-q", "--allow-empty", "--no-verify", "-m", message]
    subprocess.run(["git", *author, *words], cwd=repository, check=True)


def test_commits_since_a_base_are_checked(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(repository, "bad, but before the base")
    commit(repository, "Add one" + BODY)
    assert main("HEAD~1") == 0
    assert "1 commit" in capsys.readouterr().out
    commit(repository, "Added two" + BODY)
    assert main("HEAD~1") == 1
    assert "Added two" in capsys.readouterr().out


def test_without_a_base_the_branch_counts_from_origin(repository: Path) -> None:
    commit(repository, "bad, but pushed")
    subprocess.run(["git", "update-ref", "refs/remotes/origin/main", "HEAD"], cwd=repository)
    assert main(None) == 0
    commit(repository, "bad")
    assert main(None) == 1


def test_nothing_to_compare_with_is_told_and_passes(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(repository, "bad")
    assert main(None) == 0, f"{RULE_SINCE} is no commit of this repository"
    assert "not checked" in capsys.readouterr().out


def test_a_base_that_does_not_exist_is_an_error(repository: Path) -> None:
    commit(repository, "Add one" + BODY)
    with pytest.raises(SystemExit, match="nowhere"):
        main("nowhere")


def test_an_archive_has_nothing_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it lies in another repository."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(check_commits, "ROOT", tmp_path / "unpacked")
    assert "no git repository" in find_range(None)
