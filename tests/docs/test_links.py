"""Links, paths and the tree of the source in README.md, CONTRIBUTING.md, CHANGELOG.md and docs/.

A path in inline code, such as `src/puna/nn/rope.py` or short for it `nn/rope.py`, exists; a folder
ends in a slash. Left alone: what a run writes (`runs/`), placeholders in capitals (`RUN/model/`),
and file names without a folder (`puna.json`).
"""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from pages import DOCS, FILE_ENDINGS, PAGES, ROOT, find_path, named, read_page

PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|" + FILE_ENDINGS + r")?")
# Folders that are the user's or a run's, so that what they hold is not here
ELSEWHERE = ("runs/", "my-notes/", "books/", "web/", "models/")


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_paths_exist(path: Path) -> None:
    missing = []
    for code in read_page(path).codes:
        if (
            "/" not in code
            or not PATH.fullmatch(code)
            or code.startswith(ELSEWHERE)
            or re.match(r"[A-Z]{2,}/", code)
        ):
            continue
        if find_path(code) is None:
            missing.append(code)
    assert not missing, f"{named(path)} names what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_resolve(path: Path) -> None:
    wrong = []
    for target in (link.target for link in read_page(path).links):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            wrong.append(target)
        elif anchor and anchor not in {heading.anchor for heading in read_page(file).headings}:
            wrong.append(f"{target} (no such heading)")
    assert not wrong, f"{named(path)} has links that lead nowhere: {', '.join(wrong)}"


def test_the_tree_of_the_architecture_page_is_whole() -> None:
    """docs/architecture.md lists every source file, and no other."""
    folders: list[str] = []
    listed = set()
    for line in read_page(DOCS / "architecture.md").block("tree").splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        path = "".join(folders)
        assert (ROOT / path).exists(), f"the tree names {path}, which is not there"
        listed.add(path.rstrip("/"))
    package = ROOT / "src" / "puna"
    present = {
        named(path)
        for path in (*package.rglob("*.py"), *package.rglob("*.html"))
        if path.name != "__init__.py"
    }
    missing = sorted(present - listed)
    assert not missing, f"the tree of docs/architecture.md leaves out {', '.join(missing)}"


def test_decisions_are_numbered_without_gaps() -> None:
    for number, path in enumerate(sorted((DOCS / "decisions").glob("*.md")), 1):
        assert path.name.startswith(f"{number:04d}-"), (
            f"{path.name} is number {number} in the order of names"
        )
        page = read_page(path)
        assert page.text.startswith(f"# {number:04d} ")
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in page.text, f"{path.name} has no {part}"
