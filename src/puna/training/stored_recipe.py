"""The recipe that a run folder keeps: written when the run starts, compared when it resumes.

RUN/recipe.yaml     the resolved recipe, as it is now
RUN/changes.json    what resumes changed in it, and at which steps; there once one did
"""

import json
from pathlib import Path
from typing import Any

from puna.config import dump_yaml, read_yaml, validate
from puna.durable import write_json, write_text
from puna.errors import ConfigError, TrainingError
from puna.training.recipe import Recipe

RECIPE, CHANGES = "recipe.yaml", "changes.json"
CHANGEABLE = (
    "train.steps",
    "train.minutes",
    "train.log_every",
    "train.keep_last",
    "train.device",
    "train.precision",
    "train.isa",
    "train.shards",
    "train.replicas",
)
"""Keys that a resume may change. Of these all but `log_every` and `keep_last` change the weights
that come out, so they are kept with the run.
"""
Changes = dict[str, tuple[Any, Any]]
"""By dotted key: the value before, and after."""


def recipe_hash(recipe: Recipe) -> str:
    """The recipe's fingerprint without the name of its run folder: a run moved elsewhere is the
    same run.
    """
    return recipe.model_copy(update={"run": None}).fingerprint()


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `read_recipe` takes."""
    return "# The resolved recipe of this run: every value, defaults included.\n" + dump_yaml(
        recipe.model_dump(mode="json")
    )


def read_stored_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run. Raises TrainingError where there is none."""
    try:
        return validate(Recipe, read_yaml(run / RECIPE), origin=str(run / RECIPE))
    except ConfigError as error:
        raise TrainingError(f"{run} is no run folder: {error}") from error


def store_recipe(run: Path, recipe: Recipe) -> None:
    """Begin a run: keep its resolved recipe. Raises TrainingError where the folder holds one."""
    path = run / RECIPE
    if path.exists():
        raise TrainingError(
            f"{run} holds a run already: --resume (in Python resume=True) continues it, run=OTHER"
            " starts another"
        )
    write_text(path, dump_recipe(recipe))


def changes_on_resume(run: Path, recipe: Recipe) -> Changes:
    """The keys that a resume gives other values than the run has, with both. Raises TrainingError
    that names those that may not change.
    """
    changes = differences(read_stored_recipe(run), recipe)
    if fixed := [key for key in changes if key not in CHANGEABLE]:
        raise TrainingError(
            f"{run} was started with other values of {', '.join(fixed)}: resume it with those"
            f" (only {', '.join(CHANGEABLE)} may change), or start another run with run=OTHER"
        )
    return changes


def store_changes(run: Path, recipe: Recipe, step: int, changes: Changes) -> None:
    """Keep the recipe as it is from `step` on, and what was changed there."""
    if not changes:
        return
    write_json(run / CHANGES, [*read_changes(run), {"step": step, "changed": changes}])
    write_text(run / RECIPE, dump_recipe(recipe))


def read_changes(run: Path) -> list[dict[str, Any]]:
    """The changes that resumes made, in their order: `step`, and `changed`, a pair of values
    (before, after) for each key.
    """
    try:
        found: list[dict[str, Any]] = json.loads((run / CHANGES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found


def differences(before: Recipe, after: Recipe) -> Changes:
    """The dotted keys whose values differ between two recipes, with both; the name of the run
    folder is none of them.
    """

    def flat(values: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            return {prefix: values}
        return {
            key: value
            for name, item in values.items()
            for key, value in flat(item, f"{prefix}.{name}").items()
        }

    old, new = (flat(recipe.model_dump(mode="json"), "") for recipe in (before, after))
    return {
        key.removeprefix("."): (old.get(key), new.get(key))
        for key in old | new
        if old.get(key) != new.get(key) and key != ".run"
    }
