"""Consoles of the command line: a name like `notes [/old]` or `:cat:` is text, not markup."""

import ast
from pathlib import Path

import pytest

import puna.cli

FILES = sorted(Path(puna.cli.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_console_reads_markup(path: Path) -> None:
    """Markup raises an error for a folder `notes [/old]`, and drops `[old]` in silence."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console":
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert (given.get("markup"), given.get("emoji")) == ("False", "False"), (
                f"line {node.lineno}: Console(markup=False, emoji=False)"
            )
