"""The `puna` command within this process: arguments and input in, exit code and both outputs
out.
"""

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from puna.cli.main import main


class Result(NamedTuple):
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def puna(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run a command as the installed script does; what `sys.exit` is given as text goes to standard
    error, with code 1.
    """

    def run(*arguments: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["puna", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        if isinstance(exited.value.code, str):
            return Result(1, out, err + exited.value.code + "\n")
        return Result(exited.value.code or 0, out, err)

    return run
