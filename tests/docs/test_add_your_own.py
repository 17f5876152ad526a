"""docs/parts/add-your-own.md: its edits apply to the source, and what it adds passes its tests and
trains.
"""

import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from page_examples import run, trainings
from pages import ROOT, read_page

from puna.errors import ConfigError
from puna.training.recipe import read_recipe

PAGE = read_page("docs/parts/add-your-own.md")


class Edit(NamedTuple):
    """A block of the page on adding a part: what it does to which file."""

    language: str
    file: str
    text: str

    def apply(self, root: Path) -> None:
        """A python block goes to the end of the file, or is a new one; a diff block puts its new
        lines in the place of the old.
        """
        path = root / self.file
        if self.language == "python":
            before = path.read_text(encoding="utf-8").rstrip() + "\n\n\n" if path.exists() else ""
            path.write_text(before + self.text, encoding="utf-8")
            return
        text = path.read_text(encoding="utf-8")
        for hunk in self.text.split("@@\n"):
            old, new = (
                "".join(
                    line[1:] for line in hunk.splitlines(keepends=True) if line[0] in f" {sign}"
                )
                for sign in "-+"
            )
            assert text.count(old) == 1, (
                f"{self.file} has {text.count(old)} times what {PAGE.origin} changes:\n{old}"
            )
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def edits() -> list[Edit]:
    heads = [
        (block.language, *block.text.partition("\n")[::2])
        for block in PAGE.all_blocks
        if block.language in ("python", "diff")
    ]
    return [Edit(language, head.removeprefix("# "), text) for language, head, text in heads]


def test_before_it_is_added_the_name_is_rejected_as_the_page_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    recipe, *overrides = trainings(PAGE)[0]
    with pytest.raises(ConfigError) as raised:
        read_recipe(Path(recipe), overrides)
    assert f"error: {raised.value}\n" in PAGE.blocks("text")


def test_every_edit_of_the_page_applies(tmp_path: Path) -> None:
    """To the files as they are now; what comes of it is tested below, in minutes."""
    for file in {edit.file for edit in edits()}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / file).exists():
            shutil.copyfile(ROOT / file, tmp_path / file)
    for edit in edits():
        edit.apply(tmp_path)
    for edit in edits():
        if edit.file.endswith(".py"):
            compile((tmp_path / edit.file).read_text(encoding="utf-8"), edit.file, "exec")


@pytest.fixture
def added(tmp_path: Path) -> Path:
    """A copy of the source and of the tests that the page runs, with all that the page does done to
    it.
    """
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "docs/parts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    for file in (
        "pyproject.toml",
        "tests/conftest.py",
        "tests/model/conftest.py",
        "tests/model/test_parts.py",
        "tests/whole_cache.py",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    (tmp_path / "tests" / "nn").mkdir()
    for edit in edits():
        edit.apply(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_page_adds_a_part_that_passes_its_tests_and_trains(
    added: Path, tiny_recipe_file: Path
) -> None:
    """The page's own tests, the tests of all parts for the new name, the lint, and the page's
    training on a smaller recipe.
    """
    (arguments,) = (
        word.removeprefix("ARGS=")
        for words in PAGE.shell_lines
        for word in words
        if words[:2] == ["make", "test"] and word.startswith("ARGS=")
    )
    report = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *shlex.split(arguments),
        cwd=added,
        source=added / "src",
    )
    passed = re.search(r"(\d+) passed, \d+ deselected", report)
    assert passed is not None
    assert int(passed[1]) >= 9, (
        f"4 tests of the page, and those of tests/model/test_parts.py for each name:\n{report}"
    )

    if importlib.util.find_spec("ruff"):
        files = sorted({edit.file for edit in edits() if edit.file.endswith(".py")})
        run(sys.executable, "-m", "ruff", "check", "--no-cache", *files, cwd=added)
        run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *files, cwd=added)

    _, *overrides = trainings(PAGE)[-2]
    assert "model.norm=dyt" in overrides
    command = [
        "-c",
        "from puna.cli.main import main; main()",
        "train",
        str(tiny_recipe_file),
        *overrides,
        "train.steps=5",
    ]
    run(sys.executable, *command, cwd=added, source=added / "src")
    saved = json.loads(
        (added / "runs" / "dyt" / "model" / "config.json").read_text(encoding="utf-8")
    )
    assert (saved["model"]["norm"], saved["model"]["norm_alpha_init"]) == ("dyt", 0.8)
    assert saved["model"]["norm_bias"] is True
