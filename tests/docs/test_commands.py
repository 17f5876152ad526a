"""Commands that the pages name: `puna COMMAND` with its options exists, a whole line of a shell
block parses, and `make TARGET` is a target of the Makefile.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import ADDED_KEYS, PAGES, ROOT, named, read_page

from puna.cli.main import app
from puna.config import dotted_keys
from puna.training.recipe import Recipe

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = frozenset(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words after `puna` name, and the words that are left for it."""
    command, rest = command_line(), list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            if rest[0] == "...":
                return command, []
            raise LookupError(
                f"puna has no command {' '.join(words)}: {', '.join(command.commands)} exist"
            )
        command = command.commands[rest.pop(0)]
    return command, rest


def unknown_options(command: Any, words: list[str]) -> list[str]:
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}
    return [
        word
        for word in words
        if re.fullmatch(r"-{1,2}[a-z][\w-]*(=.*)?", word) and word.partition("=")[0] not in known
    ]


def unknown_targets(words: list[str]) -> list[str]:
    """Of the words after `make`, without variables and options."""
    targets = (word for word in words if "=" not in word and not word.startswith("-"))
    return [f"the Makefile has no target {target}" for target in targets if target not in TARGETS]


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_in_prose_exist(path: Path) -> None:
    wrong = []
    for code in read_page(path).codes:
        words = code.split()
        if words[0] == "puna" and len(words) > 1:
            try:
                command, rest = find_command(words[1:])
            except LookupError as error:
                wrong.append(str(error))
                continue
            wrong += [
                f"`{code}`: there is no {option}" for option in unknown_options(command, rest)
            ]
        elif words[0] == "make":
            wrong += unknown_targets(words[1:2])
    assert not wrong, f"{named(path)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_in_blocks_parse(path: Path) -> None:
    """Every `puna` line of a shell block has what the command needs, of the right types; recipes
    that it names exist.
    """
    wrong = []
    for words in read_page(path).shell_lines:
        program = words[0].rpartition("/")[2]
        if program == "make":
            wrong += unknown_targets(words[1:])
        if program == "puna":
            wrong += faults(words)
    assert not wrong, f"{named(path)}: {'; '.join(wrong)}"


def faults(words: list[str]) -> list[str]:
    """Whatever is wrong with one `puna` line."""
    wrong = []
    try:
        command, rest = find_command(words[1:])
        command.make_context(command.name, list(rest))
    except LookupError as error:
        return [str(error)]
    # every fault of a command line; typer keeps the classes to itself
    except Exception as error:
        wrong.append(f"{' '.join(words)}: {getattr(error, 'message', None) or error!r}")
    for word in rest:
        key = re.match(r"([a-z_]+(?:\.[a-z_]+)*)=", word)
        known = {*ADDED_KEYS, *dotted_keys(Recipe)}
        if key and command.name in ("train", "verify-resume") and key[1] not in known:
            wrong.append(f"{' '.join(words)}: {key[1]} is no key of a recipe")
        if word.startswith("recipes/") and not (ROOT / word).is_file():
            wrong.append(f"{word} is not there")
    return wrong


def test_make_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert (
        set(phony[1].split())
        == TARGETS
        == set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    )
