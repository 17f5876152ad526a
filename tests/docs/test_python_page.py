"""docs/python.md: every block runs, one after the other, as a reader would paste them."""

from pathlib import Path
from typing import Any

import pytest
from pages import read_page

PAGE = read_page("docs/python.md")


def test_the_python_page_runs(
    model_folder: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the untrained model where the page says that one lies, below the working directory;
    `my-notes` is a folder of text.
    """
    monkeypatch.chdir(tmp_path)
    Path("runs/quickstart").mkdir(parents=True)
    Path("runs/quickstart/model").symlink_to(model_folder)
    Path("my-notes").symlink_to(tiny_corpus)
    scope: dict[str, Any] = {"__name__": "__main__"}
    for block in PAGE.blocks("python"):
        exec(compile(block.replace('device="auto"', 'device="cpu"'), PAGE.origin, "exec"), scope)
    assert capsys.readouterr().out
