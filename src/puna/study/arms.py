"""The arms of a study, resolved: the recipe of each, with what it was tuned to and at a stage, and
how far its cost is from the baseline's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.config import overlay, read_yaml
from puna.errors import ConfigError
from puna.model.accounting import count_parameters, training_flops_per_token
from puna.model.config import ModelConfig
from puna.study.definition import FILE, Overrides, Study
from puna.training.recipe import Recipe, overridden_recipe

# an arm whose parameters or FLOPs are further from the baseline's than this does not count as
# matched
MATCHED_WITHIN = 0.01


@dataclass(frozen=True)
class Arm:
    """One arm, resolved: its recipe but for the seed, and how far its cost is from the baseline's
    (0.01 is one per cent more).
    """

    name: str
    recipe: Recipe
    parameters: int
    flops_per_token: float
    parameter_difference: float
    flop_difference: float


def resolve_arms(
    study: Study, folder: Path, further: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Arm]:
    """Every arm with its recipe, matched as the study asks; the widths that an arm sets itself are
    kept. further: overrides that come after the arm's own, by arm.

    Raises ConfigError for an override that names nothing, for an arm that cannot be matched within
    `MATCHED_WITHIN`, and for one with a time budget.
    """
    base = read_yaml(folder / study.base)
    recipes = {
        name: _recipe(
            base, (*overrides, *(further or {}).get(name, ())), f"{folder / FILE}, arm {name}"
        )
        for name, overrides in study.arms.items()
    }
    reference = recipes[study.baseline]
    measures: dict[str, Callable[[ModelConfig], float]] = {
        "parameters": lambda model: count_parameters(model).total,
        "flops": lambda model: training_flops_per_token(model, reference.context_length),
    }
    if study.matched != "nothing":
        measure = measures[study.matched]
        target = measure(reference.model)
        for name, recipe in recipes.items():
            own = (*study.arms[name], *(further or {}).get(name, ()))
            recipes[name] = _matched(recipe, measure, target, own)
            off = measure(recipes[name].model) / target - 1
            if abs(off) > MATCHED_WITHIN:
                raise ConfigError(
                    f"{folder / FILE}: the {study.matched} of the arm {name} are {off:+.1%} off the"
                    " baseline's, and no feed-forward width brings them within"
                    f" {MATCHED_WITHIN:.0%}: change the arm, or set matched: nothing"
                )
    parameters, flops = (
        {name: measure(recipe.model) for name, recipe in recipes.items()}
        for measure in (measures["parameters"], measures["flops"])
    )
    return {
        name: Arm(
            name,
            recipe,
            int(parameters[name]),
            flops[name],
            parameters[name] / parameters[study.baseline] - 1,
            flops[name] / flops[study.baseline] - 1,
        )
        for name, recipe in recipes.items()
    }


def _recipe(base: dict[str, Any], overrides: Overrides, origin: str) -> Recipe:
    recipe = overridden_recipe(base, overrides, origin)
    if recipe.train.minutes is not None:
        raise ConfigError(
            f"{origin}: train.minutes {recipe.train.minutes:g} would give arms as many steps as the"
            " machine lets them take, and a study compares equal lengths: leave it out"
        )
    return recipe


def _matched(
    recipe: Recipe,
    measure: Callable[[ModelConfig], float],
    target: float,
    overrides: Overrides,
) -> Recipe:
    """The recipe with the feed-forward width that brings `measure`, which grows linearly with it,
    closest to the target.
    """
    if any(override.startswith("model.feed_forward_width=") for override in overrides):
        return recipe

    def with_width(width: int) -> ModelConfig:
        return ModelConfig.model_validate(
            overlay(recipe.model.model_dump(), {"preset": None, "feed_forward_width": width})
        )

    one, two = measure(with_width(1)), measure(with_width(2))
    width = max(1, round(1 + (target - one) / (two - one)))
    return recipe.model_copy(update={"model": with_width(width)})
