"""docs/parts: its pictures are those that the code draws now, and its tables name every part."""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_examples import run, trainings
from pages import DOCS, ROOT, Page, read_page

from puna.model.parts import FEED_FORWARDS, INITS, NORMS, PLACEMENTS, POSITIONS, ROPE_SCALINGS
from puna.training.recipe import read_recipe

PARTS = DOCS / "parts"
PICTURES = PARTS / "pictures"
PAGES = [read_page(path) for path in sorted(PARTS.glob("*.md"))]

# key: the page of its family, and the names that the tables of the code have
NAMES: dict[str, tuple[str, Iterable[str]]] = {
    "model.norm": ("normalization.md", NORMS),
    "model.placement": ("placement.md", PLACEMENTS),
    "model.init": ("placement.md", INITS),
    "model.feed_forward": ("feed-forward.md", FEED_FORWARDS),
    "model.position": ("positions.md", POSITIONS),
    "model.rope_scaling.kind": ("positions.md", ROPE_SCALINGS),
}


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
    shown = {link.target: link.text for page in PAGES for link in page.links if link.picture}
    assert all(shown.values()), "a picture has no description"
    drawn = {path.name for path in PICTURES.iterdir()} - {"data.json"}
    assert set(shown) == {f"pictures/{name}" for name in drawn}


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
    index = read_page(PARTS / "README.md").tables
    (names,) = (row[2] for table in index for row in table.rows if row[1] == f"`{key}`")
    assert set(re.findall(r"`(\w+)`", names)) == set(expected), (
        f"the row of {key} in docs/parts/README.md"
    )
    family = read_page(PARTS / page).text
    recipes = read_page(DOCS / "recipes.md").tables
    (row,) = (" ".join(row) for table in recipes for row in table.rows if row[0] == f"`{key}`")
    for name in expected:
        assert f"`{name}`" in family or f"{key}={name}" in family, (
            f"docs/parts/{page} does not name {name}"
        )
        assert f"`{name}`" in row, f"the row of {key} in docs/recipes.md does not name {name}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if trainings(page)], ids=lambda page: page.origin
)
def test_every_training_of_a_page_is_a_whole_recipe(page: Page) -> None:
    for recipe, *overrides in trainings(page):
        if "model.norm=dyt" not in overrides:
            read_recipe(ROOT / recipe, overrides)
