"""The programs that are measured, each in processes of its own, so that none has another's threads
or memory: those that answer works one after the other, and those that are started for each.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Protocol

from puna.inference_benchmark.verdict import PLAIN
from puna.inference_benchmark.workload import Workload

PATIENCE = 3600.0
"""Seconds of one command at most: far more than a slow machine needs for a context of 8,192 tokens
of a model of 1.1B.
"""

Measure = Callable[[], float]
"""Measures once; a figure in the unit of the work. Raises `ProgramError`."""


class ProgramError(Exception):
    """A program that is measured broke off, or has no answer."""


class Program(Protocol):
    """A program that is measured."""

    def entries(self, work: Workload) -> Mapping[str, Measure]:
        """Measurements of a work by their entry in its row; none where the program has no part in
        it.
        """
        ...

    def close(self) -> None:
        """End its processes."""
        ...


class AnsweringProgram:
    """A process that answers works, lines of JSON, with seconds. It is started for the first one
    and lives until `close`.

    entry: its name in a row. works: names of those that it takes part in.
    """

    def __init__(self, entry: str, command: Sequence[str], works: Collection[str]) -> None:
        self._entry, self._command, self._works = entry, command, works
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] | None = None

    def entries(self, work: Workload) -> Mapping[str, Measure]:
        """As `Program.entries`; a lookup is measured with drafts and without."""
        if work.name not in self._works:
            return {}
        if work.kind == "lookup":
            return {
                self._entry: lambda: self._rate(work, speculate=True),
                PLAIN: lambda: self._rate(work, speculate=False),
            }
        return {self._entry: lambda: self._rate(work)}

    def close(self) -> None:
        """As `Program.close`."""
        if self._process is not None and self._said is not None:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._said.close()
            self._process = self._said = None

    def _rate(self, work: Workload, **more: Any) -> float:
        if self._process is None:
            self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
            self._answer("ready")
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps(work.request(**more)) + "\n")
            self._process.stdin.flush()
        return work.measured_tokens / float(self._answer("seconds"))

    def _answer(self, key: str) -> Any:
        process, said = self._process, self._said
        assert process is not None
        assert process.stdout is not None
        assert said is not None
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            said.seek(0)
            raise ProgramError(f"it ended with code {code}: {last_line(said.read())}")
        answer = json.loads(line)
        if key not in answer:
            raise ProgramError(answer.get("error", f"it answered {line.strip()}"))
        return answer[key]


def run(command: Sequence[str], *, errors: bool = False) -> str:
    """Standard output of a command, and after it standard error where `errors`. Raises ProgramError
    where it fails or takes longer than `PATIENCE`.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(str(error)) from error
    if done.returncode:
        raise ProgramError(f"it ended with code {done.returncode}: {last_line(done.stderr)}")
    return done.stdout + (done.stderr if errors else "")


def seconds_to_output(command: Sequence[str]) -> float:
    """Seconds from the start of a command to the first byte of its output. Raises ProgramError
    where it fails.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        begin = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
        except OSError as error:
            raise ProgramError(str(error)) from error
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - begin
        process.communicate()
        if process.returncode or not first:
            said.seek(0)
            reason = last_line(said.read()) or "it wrote nothing"
            raise ProgramError(f"it ended with code {process.returncode}: {reason}")
    return seconds


def last_line(text: str) -> str:
    """The last line that is not empty, at most 200 characters of it."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:200]
