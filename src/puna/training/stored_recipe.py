"""The recipe that a run folder keeps: written when the run starts, compared when it resumes."""

from pathlib import Path
from typing import Any

from puna.config import dump_yaml, read_yaml, validate
from puna.errors import ConfigError, TrainingError
from puna.training.recipe import Recipe


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
        return validate(Recipe, read_yaml(run / "recipe.yaml"), origin=str(run / "recipe.yaml"))
    except ConfigError as error:
        raise TrainingError(f"{run} is no run folder: {error}") from error


def differences(before: Recipe, after: Recipe) -> list[str]:
    """The dotted keys whose values differ between two recipes."""

    def flat(values: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            return {prefix: values}
        return {
            key: value
            for name, item in values.items()
            for key, value in flat(item, f"{prefix}.{name}").items()
        }

    old, new = (flat(recipe.model_dump(mode="json"), "") for recipe in (before, after))
    return [
        key.removeprefix(".") for key in old | new if old.get(key) != new.get(key) and key != ".run"
    ]
