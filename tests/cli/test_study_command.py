"""`puna study report`: what it prints and writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_up_study import make_study


def test_the_command_writes_both_files_and_equal_folders_give_equal_ones(
    puna: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_study(tmp_path, ["a", "[b]"])
    result = puna("study", "report", folder)
    assert (result.code, result.err) == (0, "")
    assert "[b]" in result.out
    assert f"report  {folder / 'REPORT.md'}\npage    {folder / 'report.html'}\n" in result.out
    first = [(folder / name).read_bytes() for name in ("REPORT.md", "report.html")]
    puna("study", "report", folder)
    assert [(folder / name).read_bytes() for name in ("REPORT.md", "report.html")] == first


def test_missing_runs_are_one_line_and_nothing_is_written(
    puna: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_study(tmp_path, ["a", "b"])
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:-1]))
    assert json.loads(lines[-1])["seed"] == 3
    result = puna("study", "report", folder)
    assert result.code == 1
    assert (
        result.err
        == "error: arm b lacks seed 3, and differences are paired: puna study run FOLDER does the"
        " missing runs\n"
    )
    assert not (folder / "REPORT.md").exists()
