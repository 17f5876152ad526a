"""A chat template in Jinja, rendered by a process of its own with bounded time and memory.

The process (`template_process.py`) is started by the first chat, takes 0.1 s to start, keeps 24 MB,
and ends with the object; one that had to be ended is started again by the next chat. In-process
rendering cannot be bounded: a template may loop for ever or build 2^40 characters in one operation
of C, and a thread cannot be ended.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from puna.errors import TokenizerError

COMMAND = (sys.executable, "-P", "-m", "puna.tokenizer.template_process")

MOST_TEMPLATE_CHARACTERS = 1_000_000
"""Published templates have up to 20,000."""


MOST_REQUEST_BYTES = 50_000_000
"""Of all contexts together; they share the 200 MB with what is made of them."""


class JinjaTemplate:
    """A template by its text. name: its name in errors. Any thread may render; one does at a
    time.
    """

    def __init__(self, source: str, name: str) -> None:
        if len(source) > MOST_TEMPLATE_CHARACTERS:
            raise TokenizerError(
                f"{name} has {len(source):,} characters; a template may have"
                f" {MOST_TEMPLATE_CHARACTERS:,} at most: name another"
            )
        self.source, self.name = source, name
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None
        self._lock = threading.Lock()

    def render(self, contexts: Sequence[Mapping[str, Any]]) -> list[str]:
        """The text of each context; their values must be those that JSON has. Raises TokenizerError
        with the template's name and the reason: its syntax, its own rejection of the chat, an
        attribute that it may not read, more than half a second of processor time or 200 MB.
        """
        request = json.dumps(contexts).encode("ascii")
        if len(request) > MOST_REQUEST_BYTES:
            raise self._error(
                f"as JSON it has {len(request):,} bytes, and more than {MOST_REQUEST_BYTES:,} are"
                " no chat"
            )
        with self._lock:
            answered = json.loads(self._answer(request))
        if "error" in answered:
            raise self._error(answered["error"])
        texts: list[str] = answered["texts"]
        return texts

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _answer(self, request: bytes) -> bytes:
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(request + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except BaseException:  # an answer that comes later must not meet the next question
            self.close()
            raise
        if line.endswith(b"\n"):
            return line
        code = process.wait()
        self.close()
        if code == -signal.SIGPROF:
            raise self._error("it takes more than half a second of processor time")
        raise self._error(f"it ended the process that renders it (exit code {code})")

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us
            )
        except OSError as error:
            raise self._error(f"no process could be started to render it ({error})") from error
        self._process, self._end = process, weakref.finalize(self, _end_process, process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(self.source).encode("ascii") + b"\n")
        return process

    def _error(self, reason: str) -> TokenizerError:
        return TokenizerError(
            f"{self.name} cannot lay out this chat: {reason}; change the chat, or choose another"
            " layout (llama3, chatml, alpaca, none, or a file)"
        )


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of what was never written
                pipe.close()
