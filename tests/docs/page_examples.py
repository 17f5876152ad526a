"""Examples of the pages: found, run in a process of their own or against a server one after the
other, and compared by the shape of what they print.
"""

import ast
import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pages import ROOT, Block, Page

SHOWN_URL = "http://127.0.0.1:8000"
"""Where the pages say that the server is."""


@dataclass(frozen=True)
class Example:
    """A block that a reader would run, and what the page says it prints; None if it says
    nothing.
    """

    language: str
    source: str
    shown: str | None


def examples(page: Page) -> Iterator[Example]:
    """The sh blocks that call curl and the python blocks, in order, each with the block of output
    that may follow it.
    """
    nothing = Block("", "", 0, 0)
    following = [*page.all_blocks[1:], nothing]
    for block, after in zip(page.all_blocks, following, strict=True):
        if block.language == "python" or (block.language == "sh" and "curl " in block.text):
            shown = after.text if after.language in ("json", "text") else None
            yield Example(block.language, block.text, shown)


def run(*command: str, cwd: Path = ROOT, source: Path = ROOT / "src") -> str:
    """What the command prints; with what it says besides, should it fail. `source` is where it
    finds puna.
    """
    path = {
        "PYTHONPATH": str(source),
        "PATH": str(Path(sys.executable).parent),
        "HOME": str(Path.home()),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=cwd, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def trainings(page: Page) -> list[list[str]]:
    """The words after `puna train` of each such line in the page's shell blocks."""
    return [words[2:] for words in page.shell_lines if words[:2] == ["puna", "train"]]


class Reader:
    """Runs the examples of a page one after the other, as one who reads it from the top."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.names: dict[str, Any] = {}

    def output(self, example: Example) -> str:
        """What the example prints."""
        source = example.source.replace(SHOWN_URL, self.url)
        if example.language == "sh":
            return "".join(
                curl(shlex.split(line)) for line in source.replace("\\\n", " ").splitlines()
            )
        printed = io.StringIO()
        if "client = " in source:
            self.close()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "a page of docs/", "exec"), self.names)
        return printed.getvalue()

    def close(self) -> None:
        """Close what the examples opened."""
        if "client" in self.names:
            self.names["client"].close()


def curl(words: list[str]) -> str:
    """What a line with curl prints, perhaps through grep; of what the two can do, the pages use
    little.
    """
    url, method, headers, content = "", "GET", {}, None
    rest = iter(words[1:])
    for word in rest:
        match word:
            case "-H":
                name, _, headers[name] = next(rest).partition(": ")
            case "-d":
                method, content = "POST", next(rest)
            case "-s" | "-N":
                pass
            case "|":
                break
            case _:
                url = word
    answer = httpx.request(method, url, headers=headers, content=content, timeout=60)
    match list(rest):
        case []:
            return answer.text
        case ["grep", pattern]:
            return "".join(
                line for line in answer.text.splitlines(keepends=True) if re.search(pattern, line)
            )
        case program:
            raise AssertionError(f"the pages use no {program}")


def same_kind(shown: str, printed: str) -> bool:
    """Whether two outputs are of one kind: JSON of the same shape, the same events, or lines of
    values of the same types.
    """
    if shown.startswith("data: "):
        kinds = {json.dumps(_shape(event), sort_keys=True) for event in _events(shown)}
        return {
            json.dumps(_shape(event), sort_keys=True) for event in _events(printed)
        } <= kinds and _ends(shown) == _ends(printed)
    try:
        return [_shape(value) for value in _values(shown)] == [
            _shape(value) for value in _values(printed)
        ]
    except ValueError:
        pass
    wanted, found = ([_literal(line) for line in text.splitlines()] for text in (shown, printed))
    if None in wanted:  # words of a model
        return bool(printed)
    return [_shape(value) for value in wanted] == [_shape(value) for value in found]


def _values(text: str) -> list[Any]:
    """The JSON values that stand one after the other."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found


def _events(text: str) -> list[Any]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in text.splitlines()
        if line.startswith("data: {")
    ]


def _ends(text: str) -> str:
    return text.strip().splitlines()[-1]


def _literal(line: str) -> Any:
    """The value that a line spells in Python; None if it spells none."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(line)
    return None


def _shape(value: Any) -> Any:
    """A value without what differs from model to model and from time to time; messages of errors
    stay, but for their numbers.
    """
    match value:
        case {"error": {"message": message, **more}}:
            return {"error": {"message": re.sub(r"\d+", "#", message), **more}}
        case dict():
            return {key: _shape(part) for key, part in value.items()}
        case list() | tuple():
            return [_shape(value[0])] if value else []
        case bool() | None:
            return repr(type(value))
        case int() | float():
            return "a number"
        case _:
            return "a text"
