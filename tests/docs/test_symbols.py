"""Symbols that the pages name: `path` / `symbol` is in that file, and `puna.x.y` resolves by import
and attribute.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from pages import FILE_ENDINGS, PAGES, ROOT, find_path, named, read_page


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute (of an attribute ...) of one; a field of a
    dataclass counts.
    """
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if part in getattr(value, "__annotations__", {}):
                return True
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_symbols_are_in_the_files_named_beside_them(path: Path) -> None:
    wrong = []
    for name, symbol in read_page(path).symbols:
        if not re.fullmatch(r"[\w./-]+\.py", name) or not re.fullmatch(r"[\w.]+", symbol):
            continue
        file = find_path(name)
        if file is None:
            wrong.append(f"{name} is not there")
        elif (ROOT / "src") in file.parents:
            module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
            if not resolves(f"{module.removesuffix('.__init__')}.{symbol}"):
                wrong.append(f"{name} has no {symbol}")
        elif not re.search(
            rf"^(?:def|class)? *{re.escape(symbol)}\b",
            file.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            wrong.append(f"{name} has no {symbol}")
    assert not wrong, f"{named(path)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_dotted_names_resolve(path: Path) -> None:
    names = {
        code.partition("(")[0]
        for code in read_page(path).codes
        if re.match(r"puna\.[\w.]+(\(|$)", code)
    }
    wrong = sorted(
        name for name in names if not re.search(FILE_ENDINGS, name) and not resolves(name)
    )
    assert not wrong, f"{named(path)} names what cannot be imported: {', '.join(wrong)}"
