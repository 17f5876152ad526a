"""The command line: help, exit codes, the form of errors."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from puna.training import recipe

Puna = Callable[..., Any]

COMMANDS = [
    "quickstart",
    "tokenizer",
    "data",
    "train",
    "verify-resume",
    "eval",
    "generate",
    "chat",
    "serve",
    "merge",
    "plan",
]


def test_help_lists_every_command(puna: Puna) -> None:
    out = puna("--help").out
    assert all(command in out for command in COMMANDS)
    assert "Begin with: puna quickstart" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, puna: Puna) -> None:
    result = puna(command, "--help")
    assert result.code == 0
    assert f"puna {command} [OPTIONS]" in result.out
    if command not in ("tokenizer", "data", "chat", "plan"):
        assert f"puna {command}" in result.out.partition("Example")[2]


def test_help_and_version_need_no_torch() -> None:
    """They answer at once because the heavy imports wait inside the commands."""
    script = (
        "import sys\nfrom puna.cli.main import main\ntry:\n    main()\nfinally:\n    assert 'torch'"
        " not in sys.modules"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", script, argument], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == f"puna {version('puna')}\n"


def test_an_error_that_the_user_can_mend_is_one_line_on_standard_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from puna.cli.main import main; main()"]
    done = subprocess.run(
        [*command, "train", str(tmp_path / "gone.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"error: cannot read the recipe {tmp_path / 'gone.yaml'}: No such file or directory\n"
    )


def test_unknown_words_exit_with_2(puna: Puna) -> None:
    assert puna("trian").code == 2
    assert puna("train").code == 2
    assert puna("eval", "model", "--contxt", "3").code == 2


def test_an_error_of_the_system_is_one_line_too(
    puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr(recipe, "read_recipe", full)
    result = puna("train", "recipe.yaml")
    assert (result.code, result.err) == (1, "error: No space left on device: runs/x\n")


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    """As in `puna --help | true`, at the write after the reader has gone."""
    script = "import sys, time\nfrom puna.cli.main import main\nsys.stdin.read()\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "--version"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    assert process.stderr
    process.stdout.close()
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in errors
