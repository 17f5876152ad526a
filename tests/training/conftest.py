"""A way to make trainers of the tiny recipe."""

from collections.abc import Callable
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
