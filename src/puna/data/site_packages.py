"""Sources from the Python packages that are installed beside Puna: their code, and their prose.

    site-packages         the .py and .pyi files of all of them
    site-packages:NAME    those of one import package, such as `torch`: the same text wherever the
        same version is installed
    site-packages-docs    prose: .md, .rst and .txt files, and the long description that each
        package brings in its METADATA

Test suites are left out, as from `python-stdlib`. METADATA is read whole: its head is about as
long as a licence's. Text for a corpus larger than the standard library, offline.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from puna.errors import DataError

SITE_PACKAGES = "site-packages"
SITE_PACKAGES_DOCS = "site-packages-docs"

CODE, PROSE = frozenset({".py", ".pyi"}), frozenset({".md", ".rst", ".txt"})
# of a *.dist-info folder nothing else is prose: licences are the same text many times
METADATA = "METADATA"
LEFT_OUT = frozenset({"test", "tests", "testing", "__pycache__", "licenses", "license_files"})


def is_site_packages(source: str) -> bool:
    """True for a source that this file finds."""
    return source in (SITE_PACKAGES, SITE_PACKAGES_DOCS) or source.startswith(f"{SITE_PACKAGES}:")


def site_packages_files(source: str) -> tuple[Path, list[Path]]:
    """The folder of installed packages, and the source's files in it, in the order of names.

    Raises DataError for a package that is not installed.
    """
    root = Path(sysconfig.get_path("purelib"))
    if source == SITE_PACKAGES_DOCS:
        return root, list(_files(root, PROSE))
    name = source.removeprefix(SITE_PACKAGES).removeprefix(":")
    folder = root / name
    if name and not (name.isidentifier() and folder.is_dir()):
        raise DataError(
            f"the source {source} names no package that is installed: give the name that Python"
            f" imports, such as {SITE_PACKAGES}:torch, or {SITE_PACKAGES} for all of them"
        )
    return root, list(_files(folder, CODE))


def _files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in LEFT_OUT and not path.is_symlink():
                yield from _files(path, suffixes)
        elif folder.suffix in (".dist-info", ".egg-info"):
            if path.name == METADATA and suffixes is PROSE:
                yield path
        elif path.suffix in suffixes:
            yield path
