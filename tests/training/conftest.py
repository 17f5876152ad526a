"""A way to make trainers of the tiny recipe, and a small disk."""

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs
from puna.training.trainer import Trainer


@pytest.fixture
def trainer(tiny_recipe: Callable[..., Recipe], tiny_inputs: RunInputs) -> Callable[..., Trainer]:
    """Make a trainer in a folder, from overrides of the recipe and of its inputs, and take the
    folder.
    """

    def make(run: Path, *overrides: str, resume: bool = False, **inputs: Any) -> Trainer:
        made = Trainer(tiny_recipe(f"run={run}", *overrides), run, replace(tiny_inputs, **inputs))
        made.start(resume)
        return made

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB: a checkpoint of the tiny recipe takes about a tenth of it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(folder)
    if not hasattr(libc, "umount") or libc.mount(b"tmpfs", target, b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    yield folder
    libc.umount(target)
