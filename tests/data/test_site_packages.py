"""Installed packages as sources, from a made-up folder of them."""

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from said import said

from puna.data.site_packages import is_site_packages, site_packages_files
from puna.data.sources import find_sources, read_texts
from puna.errors import DataError

FILES = {
    "apples/__init__.py": "core = 1\n",
    "apples/peel.py": "peel = 2\n",
    "apples/peel.pyi": "peel: int\n",
    "apples/notes.md": "On apples.\n",
    "apples/seed.json": "{}\n",
    "apples/tests/test_peel.py": "assert peel\n",
    "apples/tests/notes.txt": "On tests.\n",
    "apples/testing/check.py": "check = 3\n",
    "apples/__pycache__/peel.py": "cached\n",
    "apples/core/seeds.py": "seeds = 4\n",
    "apples-1.0.dist-info/METADATA": "Name: apples\n\nA fruit.\n",
    "apples-1.0.dist-info/RECORD": "apples/peel.py\n",
    "apples-1.0.dist-info/top_level.txt": "apples\n",
    "apples-1.0.dist-info/licenses/LICENSE.txt": "A licence.\n",
    "pears/__init__.py": "pears = 5\n",
    "pears/guide.rst": "On pears.\n",
    "pears/data.txt": "Figures of pears.\n",
    "plums.py": "plums = 6\n",
}


@pytest.fixture(autouse=True)
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where this interpreter's packages are said to lie."""
    root = tmp_path / "site-packages"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "linked").symlink_to(root / "pears")
    known: Callable[[str], str] = sysconfig.get_path
    monkeypatch.setattr(
        sysconfig, "get_path", lambda name: str(root) if name == "purelib" else known(name)
    )
    return root


def files_of(source: str) -> list[str]:
    root, paths = site_packages_files(source)
    return [path.relative_to(root).as_posix() for path in paths]


APPLES = ["apples/__init__.py", "apples/core/seeds.py", "apples/peel.py", "apples/peel.pyi"]


def test_code_is_that_of_all_packages_without_tests_caches_and_second_copies() -> None:
    assert files_of("site-packages") == [*APPLES, "pears/__init__.py", "plums.py"]


def test_one_package_is_its_code_alone() -> None:
    assert files_of("site-packages:apples") == APPLES


def test_prose_is_text_files_and_the_description_of_each_package() -> None:
    """Of a dist-info folder that alone: no licence, no list of names."""
    assert files_of("site-packages-docs") == [
        "apples/notes.md",
        "apples-1.0.dist-info/METADATA",
        "pears/data.txt",
        "pears/guide.rst",
    ]


@pytest.mark.parametrize(
    "name", ["cherries", "plums", "apples-1.0.dist-info", "apples/core", "../site-packages", "."]
)
def test_a_package_that_is_not_there_is_rejected_with_the_remedy(name: str) -> None:
    with pytest.raises(
        DataError, match=said(f"site-packages:{name} ... no package that is installed ... imports")
    ):
        find_sources([f"site-packages:{name}"])


def test_they_are_sources_like_others(site_packages: Path) -> None:
    assert list(read_texts(["site-packages:pears", "site-packages-docs"])) == [
        FILES[name]
        for name in (
            "pears/__init__.py",
            "apples/notes.md",
            "apples-1.0.dist-info/METADATA",
            "pears/data.txt",
            "pears/guide.rst",
        )
    ]
    (source,) = find_sources(["site-packages:pears"])
    (site_packages / "pears" / "__init__.py").write_text("pears = 51\n")
    assert find_sources(["site-packages:pears"])[0].fingerprint != source.fingerprint


def test_other_sources_are_not_taken_for_these() -> None:
    assert not any(map(is_site_packages, ["site-packages/apples", "apples", "python-stdlib"]))
