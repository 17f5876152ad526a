"""A study: one question, a base recipe, and arms that each change it; read from `study.yaml`,
decided before the first run.

    question: Does a gated feed-forward layer beat an ungated one of as many parameters?
    base: ../../recipes/study.yaml
    baseline: relu
    arms:
      relu: [model.feed_forward=relu]
      gelu: [model.feed_forward=gelu]
      reglu: [model.feed_forward=reglu]
      geglu: [model.feed_forward=geglu]
    matched: parameters
    seeds: [0, 1, 2, 3]
    contrasts:
      gate: {terms: {reglu|geglu: 1, relu|gelu: -1}, primary: true}

Not here: the plan of its analysis (study/questions.py), the recipes of its arms
(study/arms.py), running it (study/runner.py) and what its runs say (puna.statistics).
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from puna.config import Config, read_yaml, validate
from puna.errors import ConfigError
from puna.statistics.paired import DecisionRule
from puna.study.probes import PROBES
from puna.study.questions import ContrastDefinition, Outcome, Published, Rule, TimeTo
from puna.study.run_metrics import METRICS

FILE = "study.yaml"
# of what a study says, these are written after the runs
WRITTEN_AFTER = frozenset({"limits", "conclusion", "published"})

Overrides = Annotated[tuple[str, ...], Strict(False)]
"""`section.key=value` changes of a recipe, in order."""

Grid = dict[str, Annotated[tuple[Any, ...], Strict(False)]]
"""Values to try, by dotted key of the recipe."""


class Tuning(Config):
    """The grid over which each arm is tuned before it is tested, on seeds that test nothing; the
    point with the best mean of the study's metric is the arm's.
    """

    grid: Grid = Field(min_length=1)
    arms: dict[str, Grid] = Field(default={}, description="further keys of the grid, by arm")
    seeds: Annotated[tuple[int, ...], Strict(False)] = Field(min_length=1)
    overrides: Overrides = Field(default=(), description="of the recipe, such as fewer steps")

    def points(self, arm: str) -> list[tuple[str, ...]]:
        """Every point of an arm's grid as overrides."""
        grid = {**self.grid, **self.arms.get(arm, {})}
        return [
            tuple(f"{key}={json.dumps(value)}" for key, value in zip(grid, values, strict=True))
            for values in itertools.product(*grid.values())
        ]


class Study(Config):
    """Everything that decides a study."""

    question: str = Field(min_length=1)
    base: str = Field(description="a recipe, relative to the study's folder")
    baseline: str = Field(description="the arm that all others are compared with")
    arms: dict[str, Overrides] = Field(default={}, description="overrides of the recipe, by arm")
    factors: dict[str, dict[str, Overrides]] = Field(
        default={},
        description="overrides by factor and level: an arm for each combination of levels, named by"
        " them, beside `arms`",
    )
    matched: Literal["parameters", "flops", "nothing"] = "nothing"
    tune: Tuning | None = None
    stages: dict[str, Overrides] = Field(
        default={"": ()},
        min_length=1,
        description="overrides of the recipe, by stage, in order: the verdict is the last complete"
        " one's",
    )
    seeds: tuple[int, ...] = Field(
        strict=False, description="each runs every arm, on the same data in the same order"
    )
    metric: str = Field(
        default="bits_per_byte",
        description="what is decided by, after the last step: one of study/run_metrics.py",
    )
    also: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="further metrics, reported beside it; nothing is decided by them",
    )
    out_of_domain: tuple[str, ...] = Field(
        default=(), strict=False, description="sources of bits_per_byte_out_of_domain"
    )
    looks: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Strict(False)] = Field(
        default=(), description="shares of the training after which the metrics are taken as well"
    )
    probes: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="what to record inside each model, before training, at the looks and after",
    )
    step_times: tuple[Literal["eager", "compiled"], ...] = Field(
        default=("eager", "compiled"), strict=False
    )
    fit: bool = Field(
        default=False,
        description="the arms are a grid of sizes and tokens: fit L(N, D) to their runs",
    )
    rule: Rule = Rule()
    contrasts: dict[str, ContrastDefinition] = Field(default={})
    outcomes: dict[str, Outcome] = Field(default={})
    times: dict[str, TimeTo] = Field(default={})
    published: tuple[Published, ...] = Field(default=(), strict=False)
    limits: str = Field(
        default="",
        description="what this study cannot show, by its design; printed first",
    )
    conclusion: str = Field(
        default="",
        description=(
            "what was found, how sure it is, and where it disagrees; written after the runs"
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _combine_factors(cls, values: Any) -> Any:
        """Add the arms that the factors make; those that a dumped study holds already stay. Names
        of levels may be numbers, which YAML reads as such.
        """
        if not isinstance(values, dict) or not isinstance(values.get("factors"), dict):
            return values
        factors = {
            factor: {str(level): overrides for level, overrides in levels.items()}
            if isinstance(levels, dict)
            else levels
            for factor, levels in values["factors"].items()
        }
        made = {
            " ".join(level for level, _ in combination): [
                override for _, overrides in combination for override in overrides or ()
            ]
            for combination in itertools.product(
                *(levels.items() for levels in factors.values() if isinstance(levels, dict))
            )
        }
        return {**values, "factors": factors, "arms": {**made, **(values.get("arms") or {})}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for broken, reason in self._rules():
            if broken:
                raise ValueError(reason)
        return self

    def _rules(self) -> Iterator[tuple[bool, str]]:
        """Each rule: True where it is broken, with the message."""
        arms = ", ".join(self.arms)
        yield (
            self.baseline not in self.arms,
            f"the baseline {self.baseline!r} is no arm; the arms are {arms}",
        )
        yield (
            len(self.arms) < 2,
            f"there is only the arm {self.baseline!r}: a comparison takes another one",
        )
        yield (
            len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds),
            f"seeds {list(self.seeds)} must be at least 2 different ones, better 4: one run has no"
            " spread",
        )
        both = sorted(set(self.seeds) & set(self.tune.seeds if self.tune else ()))
        yield (
            bool(both),
            f"seed {', '.join(map(str, both))} would be tuned on and tested with: tune on others",
        )
        strangers = set(self.tune.arms if self.tune else ()) - set(self.arms)
        yield (
            bool(strangers),
            f"tune.arms names no arm: {', '.join(sorted(strangers))}; the arms are {arms}",
        )
        yield (
            list(self.looks) != sorted(set(self.looks)),
            f"looks {list(self.looks)} must ascend, each share once",
        )
        for name in self.metrics:
            yield (
                name not in METRICS,
                f"there is no metric {name!r}; the metrics are {', '.join(METRICS)}",
            )
        yield (
            "bits_per_byte_out_of_domain" in self.metrics and not self.out_of_domain,
            "bits_per_byte_out_of_domain needs text from other sources: name them, such as"
            " out_of_domain: [site-packages-docs]",
        )
        for probe in self.probes:
            yield (
                probe not in PROBES,
                f"there is no probe {probe!r}; the probes are {', '.join(PROBES)}",
            )
        for published in self.published:
            unknown = [arm for arm in published.values if arm not in self.arms]
            yield (
                bool(unknown),
                f"published figures name no arm: {', '.join(unknown)}; the arms are {arms}",
            )
        yield from self._contrast_rules()

    def _contrast_rules(self) -> Iterator[tuple[bool, str]]:
        for name, contrast in self.contrasts.items():
            yield (
                abs(sum(contrast.terms.values())) > 1e-9,
                f"the weights of the contrast {name} sum to {sum(contrast.terms.values()):g}, and"
                " not to 0: what all arms share would count as a difference",
            )
            for pattern, (_, of) in zip(
                contrast.terms, contrast.groups(list(self.arms)), strict=True
            ):
                yield (
                    not of,
                    f"the contrast {name} has the term {pattern!r}, which is no arm; the arms are"
                    f" {', '.join(self.arms)}",
                )
            known = (*self.metrics, *self.outcomes)
            yield (
                contrast.of is not None and contrast.of not in known,
                f"the contrast {name} is of {contrast.of!r}, which is no metric or outcome of this"
                f" study: {', '.join(known)}",
            )
        primary = [name for name, contrast in self.contrasts.items() if contrast.primary]
        yield (
            len(primary) > 1,
            f"the contrasts {', '.join(primary)} are all primary: one question is",
        )

    def rule_for(self, metric: str) -> DecisionRule:
        """The rule, by one of the metrics; the smallest difference is in the unit of the study's
        own, and holds for it alone.
        """
        smallest = self.rule.smallest_difference if metric == self.metric else 0.0
        return DecisionRule(self.rule.alpha, smallest, METRICS[metric].lower_is_better)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that a run is measured by; its loss is always among it, for scaling laws."""
        return tuple(dict.fromkeys((self.metric, *self.also, *self._asked_of, "loss")))

    @property
    def levels_by_arm(self) -> dict[str, dict[str, str]]:
        """The level of every factor, by arm, of the arms that the factors make."""
        return {
            " ".join(levels): dict(zip(self.factors, levels, strict=True))
            for levels in itertools.product(*self.factors.values())
            if levels
        }

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The metrics that are taken at the looks before the end."""
        return tuple(dict.fromkeys((self.metric, *self._asked_of)))

    @property
    def _asked_of(self) -> list[str]:
        """The metrics that outcomes and times are made from."""
        outcomes = [outcome.metric for outcome in self.outcomes.values()]
        return [*outcomes, *(time.metric for time in self.times.values())]

    @property
    def hash(self) -> str:
        """16 hex digits of what was decided before the runs: everything but `WRITTEN_AFTER`, and
        the seeds, of which more may follow. Keys at their defaults do not count, so that a new key
        changes no study without it.
        """
        decided = self.model_dump(
            mode="json", exclude={*WRITTEN_AFTER, "seeds"}, exclude_defaults=True
        )
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def read_study(folder: Path) -> Study:
    """The study in a folder. Raises ConfigError that names the nearest key, and the rule that a
    value breaks.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(f"{folder} is no study: it has no {FILE}")
    return validate(Study, read_yaml(path), origin=str(path))
