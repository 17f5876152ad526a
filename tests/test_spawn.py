"""Pools of fresh processes: what a script without a main guard is told, and that others are not."""

import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from puna.spawn import NO_MAIN_GUARD, SpawnedPool

POOL = """
from puna.spawn import SpawnedPool

with SpawnedPool(2) as pool:
    print(pool.submit(abs, -3).result())
"""

PREPARE = """
import sys
import puna

source, tokenizer, out = sys.argv[1:]
manifest = puna.prepare(source, puna.Tokenizer.load(tokenizer), out, workers=2)
print(manifest.splits["train"].documents)
"""

STUDY = """
from puna.study.runner import local_executor

with local_executor(jobs=1, threads=1) as executor:
    print(executor.submit(abs, -3).result())
"""


def run(program: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(program, encoding="utf-8")
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.parametrize("program", [POOL, STUDY], ids=["pool", "study"])
def test_a_script_without_a_main_guard_is_told_what_to_do(program: str, tmp_path: Path) -> None:
    """It used to end with a guess about memory, or with a broken pool."""
    done = run(program, tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1] == f"puna.errors.PunaError: {NO_MAIN_GUARD}"
    assert done.stdout == ""


def test_preparing_without_a_main_guard_is_told_what_to_do(
    tiny_recipe_file: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Both by the new process, which does not begin the work again, and by the one that waited."""
    arguments = (tiny_corpus, tiny_recipe_file.parent / "tokenizer", tmp_path / "out")
    done = run(PREPARE, tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1] == f"puna.errors.PunaError: {NO_MAIN_GUARD}"
    assert "another process is writing" not in done.stderr
    assert "memory" not in done.stderr


def test_with_a_main_guard_it_runs(tmp_path: Path) -> None:
    imports, body = POOL.strip().split("\n\n")
    body = "\n".join(f"    {line}" for line in body.splitlines())
    done = run(f'{imports}\nif __name__ == "__main__":\n{body}\n', tmp_path)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_process_that_dies_later_is_another_matter() -> None:
    """It was initialised, so the script is not to blame."""
    with pytest.raises(BrokenProcessPool), SpawnedPool(1) as pool:
        pool.submit(os._exit, 1).result()
