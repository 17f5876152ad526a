"""docs/parts: its pictures are those that the code draws now, its tables name every part, and its
page on adding a part works.
"""

import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from puna.errors import ConfigError
from puna.model.parts import ADDED, BIASED, GATED, NORMS, PLACEMENTS, ROPE_SCALINGS, ROTARY, UNGATED
from puna.train.recipe import read_recipe

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "docs" / "parts"
PICTURES = PARTS / "pictures"
PAGES = sorted(PARTS.glob("*.md"))
ADD = PARTS / "add-your-own.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# key: the page of its family, and the names that the tables of the code have
NAMES: dict[str, tuple[str, Iterable[str]]] = {
    "model.norm": ("normalization.md", NORMS),
    "model.placement": ("placement.md", PLACEMENTS),
    "model.feed_forward": ("feed-forward.md", (*UNGATED, *GATED)),
    "model.position": ("positions.md", (*ROTARY, *ADDED, *BIASED, "none")),
    "model.rope_scaling.kind": ("positions.md", ROPE_SCALINGS),
}


def run(*command: str, cwd: Path = ROOT, source: Path = ROOT / "src") -> str:
    """What the command prints; with what it says besides, should it fail. `source` is where it
    finds puna.
    """
    path = {
        "PYTHONPATH": str(source),
        "PATH": str(Path(sys.executable).parent),
        "HOME": str(Path.home()),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=cwd, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_pictures_show_what_the_code_computes_now(tmp_path: Path) -> None:
    """What `make pictures` runs, into another folder: the same pictures, and the same numbers to 1%
    of the largest of each line.
    """
    run(sys.executable, "-B", str(PARTS / "draw"), str(tmp_path))
    assert {path.name for path in PICTURES.iterdir()} == {path.name for path in tmp_path.iterdir()}
    committed, current = (
        json.loads((folder / "data.json").read_text(encoding="utf-8"))
        for folder in (PICTURES, tmp_path)
    )
    for name in committed:
        differing = list(differences(committed[name], current[name]))
        assert not differing, (
            f"{name}.svg shows other numbers than the code gives now, so run `make pictures`:"
            f" {'; '.join(differing)}"
        )


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where the two part: words by a letter, lists of numbers by more than 1% of their largest."""
    if isinstance(one, dict):
        for key in one:
            yield from differences(one[key], other[key], f"{where} {key}")
    elif (
        isinstance(one, list)
        and len(one) == len(other)
        and all(isinstance(value, float) for value in one)
    ):
        if other != pytest.approx(one, rel=1e-2, abs=1e-2 * max(map(abs, one), default=0)):
            yield f"{where}: {one} against {other}"
    elif isinstance(one, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where} {index}")
    elif one != other:
        yield f"{where}: {one} against {other}"


def test_a_changed_number_or_word_is_seen() -> None:
    """The comparison itself."""
    one = [{"words": ["a"], "lines": [[[0.0, 1.0], [5.0, 0.0]]]}]
    assert not list(differences(one, [{"words": ["a"], "lines": [[[0.0, 1.0], [5.0, 0.04]]]}]))
    assert list(differences(one, [{"words": ["a"], "lines": [[[0.0, 1.0], [5.0, 0.06]]]}]))
    assert list(differences(one, [{"words": ["b"], "lines": [[[0.0, 1.0], [5.0, 0.0]]]}]))
    assert list(differences(one, [{"words": ["a"], "lines": []}]))


def test_each_picture_was_drawn_with_the_numbers_beside_it() -> None:
    data = json.loads((PICTURES / "data.json").read_text(encoding="utf-8"))
    for name, numbers in data.items():
        checksum = hashlib.sha256(json.dumps(numbers).encode()).hexdigest()
        picture = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
        assert f"data.json: {checksum}" in picture, (
            f"{name}.svg was drawn with other numbers than data.json holds: run `make pictures`"
        )


def test_the_pictures_are_those_that_the_pages_show() -> None:
    """Each one somewhere, none left over, and every one with words for those who cannot see it."""
    shown = dict(
        re.findall(
            r"!\[([^]]*)\]\(pictures/([\w-]+\.svg)\)",
            "\n".join(page.read_text(encoding="utf-8") for page in PAGES),
        )
    )
    assert all(shown), "a picture has no description"
    assert set(shown.values()) == {path.name for path in PICTURES.iterdir()} - {"data.json"}


def test_the_pictures_are_small_and_white_behind() -> None:
    sizes = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert max(sizes.values()) < 100_000
    assert sum(sizes.values()) < 700_000
    for path in PICTURES.glob("*.svg"):
        background = re.search(
            r'<g id="patch_1">\s*<path d="[^"]*" style="fill: (#\w+)"',
            path.read_text(encoding="utf-8"),
        )
        assert background is not None, f"{path.name} has no background"
        assert background[1] == "#ffffff", f"{path.name} has no background"


@pytest.mark.parametrize("key", NAMES)
def test_the_pages_name_every_part(key: str) -> None:
    """The index exactly, the page of the family and the table of recipe keys at least."""
    page, expected = NAMES[key]
    rows = (
        row.split("|")
        for row in (PARTS / "README.md").read_text(encoding="utf-8").splitlines()
        if row.startswith("|")
    )
    (names,) = (cells[3] for cells in rows if cells[2].strip() == f"`{key}`")
    assert set(re.findall(r"`(\w+)`", names)) == set(expected), (
        f"the row of {key} in docs/parts/README.md"
    )
    family = (PARTS / page).read_text(encoding="utf-8")
    recipes = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (row,) = (line for line in recipes.splitlines() if line.startswith(f"| `{key}` |"))
    for name in expected:
        assert f"`{name}`" in family or f"{key}={name}" in family, (
            f"docs/parts/{page} does not name {name}"
        )
        assert f"`{name}`" in row, f"the row of {key} in docs/recipes.md does not name {name}"


def trainings(page: Path) -> Iterator[list[str]]:
    """The words after `puna train` of each such line in the page's shell blocks."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines() if language == "sh" else ():
            if line.startswith("puna train "):
                yield shlex.split(line)[2:]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(trainings(page))], ids=lambda page: page.name
)
def test_every_training_of_a_page_is_a_whole_recipe(page: Path) -> None:
    for recipe, *overrides in trainings(page):
        if "model.feed_forward=leaky_relu2" not in overrides:
            read_recipe(ROOT / recipe, overrides)


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
                f"{self.file} has {text.count(old)} times what {ADD.name} changes:\n{old}"
            )
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def edits() -> list[Edit]:
    blocks = FENCE.findall(ADD.read_text(encoding="utf-8"))
    heads = [
        (language, *block.partition("\n")[::2])
        for language, block in blocks
        if language in ("python", "diff")
    ]
    return [Edit(language, head.removeprefix("# "), text) for language, head, text in heads]


def test_before_it_is_added_the_name_is_refused_as_the_page_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    recipe, *overrides = next(trainings(ADD))
    with pytest.raises(ConfigError) as refused:
        read_recipe(Path(recipe), overrides)
    assert f"```text\nerror: {refused.value}\n```" in ADD.read_text(encoding="utf-8")


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


def test_the_page_adds_a_part_that_passes_its_tests_and_trains(
    added: Path, tiny_recipe_file: Path
) -> None:
    """The page's own tests, the tests of all parts for the new name, the lint, and the page's
    training on a smaller recipe.
    """
    (arguments,) = re.findall(
        r'^make test ARGS="(.*)"$', ADD.read_text(encoding="utf-8"), re.MULTILINE
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

    _, *overrides = list(trainings(ADD))[-2]
    assert "model.feed_forward=leaky_relu2" in overrides
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
        (added / "runs" / "leaky_relu2" / "model" / "config.json").read_text(encoding="utf-8")
    )
    assert saved["model"]["feed_forward"] == "leaky_relu2"
