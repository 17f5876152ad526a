"""A study: one question, a base recipe, and arms that each change it; read from `study.yaml`,
decided before the first run.

    question: Does a gated feed-forward layer beat an ungated one of as many parameters?
    base: ../../recipes/study.yaml
    baseline: relu
    arms:
      relu: [model.feed_forward=relu]
      swiglu: [model.feed_forward=swiglu]
    matched: parameters
    seeds: [0, 1, 2, 3]

Not here: running it (study/runner.py) and what its runs say (statistics/paired.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from puna.config import Config, apply_overrides, overlay, read_yaml, validate
from puna.errors import ConfigError
from puna.model.accounting import count_parameters, training_flops_per_token
from puna.model.config import ModelConfig
from puna.statistics.paired import DecisionRule
from puna.study.probes import PROBES
from puna.study.run_metrics import METRICS
from puna.training.recipe import Recipe

FILE = "study.yaml"
# an arm whose parameters or FLOPs are further from the baseline's than this does not count as
# matched
MATCHED_WITHIN = 0.01


class Rule(Config):
    """The rule by which an arm counts as different, written before the run; see
    `puna.statistics.paired.DecisionRule`.
    """

    alpha: float = Field(
        default=0.05, gt=0, lt=1, description="chance of even one false verdict in the study"
    )
    smallest_difference: float = Field(
        default=0.0, ge=0, description="in the unit of the metric; less is no difference"
    )


class Published(Config):
    """Figures of others to print beside ours."""

    source: str
    column: str = Field(description="what the figures are, with their unit")
    beside: Literal["metric", "step_times"] = Field(
        default="metric", description="which of our figures they stand beside"
    )
    lower_is_better: bool = True
    values: dict[str, float] = Field(description="by arm")


class Study(Config):
    """Everything that decides a study."""

    question: str = Field(min_length=1)
    base: str = Field(description="a recipe, relative to the study's folder")
    baseline: str = Field(description="the arm that all others are compared with")
    arms: dict[str, Annotated[tuple[str, ...], Strict(False)]] = Field(
        description="overrides of the recipe, by arm"
    )
    matched: Literal["parameters", "flops", "nothing"] = "nothing"
    seeds: tuple[int, ...] = Field(
        strict=False, description="each runs every arm, on the same data in the same order"
    )
    metric: str = Field(
        default="bits_per_byte",
        description="what is decided by, after the last step: one of study/metrics.py",
    )
    also: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="further metrics, reported beside it; nothing is decided by them",
    )
    probes: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="what to record inside each model, before and after training",
    )
    step_times: tuple[Literal["eager", "compiled"], ...] = Field(
        default=("eager", "compiled"), strict=False
    )
    fit: bool = Field(
        default=False,
        description="the arms are a grid of sizes and tokens: fit L(N, D) to their runs",
    )
    rule: Rule = Rule()
    published: tuple[Published, ...] = Field(default=(), strict=False)
    conclusion: str = Field(
        default="",
        description=(
            "what was found, how sure it is, and where it disagrees; written after the runs"
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(
                f"the baseline {self.baseline!r} is no arm; the arms are {', '.join(self.arms)}"
            )
        if len(self.arms) < 2:
            raise ValueError(
                f"there is only the arm {self.baseline!r}: a comparison takes another one"
            )
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds {list(self.seeds)} must be at least 2 different ones, better 4: one run has"
                " no spread"
            )
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(
                    f"there is no metric {name!r}; the metrics are {', '.join(METRICS)}"
                )
        for probe in self.probes:
            if probe not in PROBES:
                raise ValueError(f"there is no probe {probe!r}; the probes are {', '.join(PROBES)}")
        for published in self.published:
            unknown = [arm for arm in published.values if arm not in self.arms]
            if unknown:
                raise ValueError(
                    f"published figures name no arm: {', '.join(unknown)}; the arms are"
                    f" {', '.join(self.arms)}"
                )
        return self

    def rule_for(self, metric: str) -> DecisionRule:
        """The rule, by one of the metrics; the smallest difference is in the unit of the study's
        own, and holds for it alone.
        """
        smallest = self.rule.smallest_difference if metric == self.metric else 0.0
        return DecisionRule(self.rule.alpha, smallest, METRICS[metric].lower_is_better)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that a run is measured by; its loss is always among it, for scaling laws."""
        return tuple(dict.fromkeys((self.metric, *self.also, "loss")))


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


def read_study(folder: Path) -> Study:
    """The study in a folder. Raises ConfigError that names the nearest key, and the rule that a
    value breaks.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(f"{folder} is no study: it has no {FILE}")
    return validate(Study, read_yaml(path), origin=str(path))


def resolve_arms(study: Study, folder: Path) -> dict[str, Arm]:
    """Every arm with its recipe, matched as the study asks; the widths that an arm sets itself are
    kept.

    Raises ConfigError for an override that names nothing, and for an arm that cannot be matched
    within `MATCHED_WITHIN`.
    """
    base = read_yaml(folder / study.base)
    recipes = {
        name: _recipe(base, overrides, f"{folder / FILE}, arm {name}")
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
            recipes[name] = _matched(recipe, measure, target, study.arms[name])
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


def seeded(recipe: Recipe, seed: int, run: Path) -> Recipe:
    """The recipe of one run: the seed decides the weights and the order of the data."""
    return recipe.model_copy(update={"seed": seed, "run": str(run)})


def _recipe(base: dict[str, Any], overrides: tuple[str, ...], origin: str) -> Recipe:
    return validate(Recipe, apply_overrides(base, overrides), origin=origin)


def _matched(
    recipe: Recipe,
    measure: Callable[[ModelConfig], float],
    target: float,
    overrides: tuple[str, ...],
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
