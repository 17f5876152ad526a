"""The build of the core where the compiler is missing or fails: the install goes on with what there
is. A script stands in for the compiler and writes what it is asked for.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "native"))
from tiers import tiers  # noqa: E402

SCRIPT = """#!/bin/sh
case "$*" in *{refused}*) echo "no such instructions" >&2; exit 1;; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done
"""


def build(folder: Path, compiler: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Build into the folder; the tiers whose objects are there then."""
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder / "lib")]
    result = subprocess.run(
        [*command, "--build-temp", str(folder / "temp")],
        cwd=ROOT,
        env=os.environ | {"CC": compiler, "CXX": compiler, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result, {path.stem.removeprefix("puna_") for path in (folder / "lib").rglob("*.so")}


def test_without_a_compiler_nothing_is_built_and_nothing_fails(tmp_path: Path) -> None:
    result, built = build(tmp_path, str(tmp_path / "no-such-compiler"))
    assert result.returncode == 0, result.stderr
    assert built == set()


@pytest.mark.parametrize("refused", ["-DPUNA_SCALAR", "-shared"])
def test_what_a_compiler_refuses_is_left_out(refused: str, tmp_path: Path) -> None:
    """One tier's code, as instructions that it does not know; or every object, at the end."""
    compiler = tmp_path / "compiler"
    compiler.write_text(SCRIPT.format(refused=refused), encoding="utf-8")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    result, built = build(tmp_path, str(compiler))
    assert result.returncode == 0, result.stderr
    assert built == (set() if refused == "-shared" else set(tiers()) - {"scalar"})
