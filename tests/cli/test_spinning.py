"""The limit on threads that poll: set before torch is imported, and left to those who set it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from puna.cli.spinning import SETTINGS, SPIN_COUNT, limit_spinning

COMMAND = """
import json, os, sys
import puna.cli.main as command_line
command_line.app = lambda: print(json.dumps(["torch" in sys.modules, dict(os.environ)]))
command_line.main()
"""


def seen_by_a_command(**settings: str) -> tuple[bool, dict[str, str]]:
    """Whether torch was there before the command began, and the environment that it had."""
    ours = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env=ours | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    early, environment = json.loads(done.stdout)
    return early, {name: environment[name] for name in SETTINGS if name in environment}


def test_every_command_has_it_before_torch_is_imported() -> None:
    assert seen_by_a_command() == (False, {"GOMP_SPINCOUNT": SPIN_COUNT})


def test_a_command_leaves_what_the_user_has_set() -> None:
    assert seen_by_a_command(GOMP_SPINCOUNT="7") == (False, {"GOMP_SPINCOUNT": "7"})


def test_the_page_for_programs_has_the_same_value() -> None:
    page = Path(__file__).parents[2] / "docs" / "python.md"
    assert f"\nGOMP_SPINCOUNT={SPIN_COUNT} python " in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_of_the_user_is_left_alone(name: str) -> None:
    environment = {name: "7"}
    limit_spinning(environment)
    assert environment == {name: "7"}
