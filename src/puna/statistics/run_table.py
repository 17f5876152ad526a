"""The table that every analysis begins with: one metric of every run, by arm and seed.

A seed sets the initialisation and the order of the data, the same in every arm, so that the runs of
one seed belong together and every arm has to have every seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.errors import ConfigError

MIN_SEEDS = 2  # one run has no spread
ADVISED_SEEDS = 4

Runs = Mapping[str, Mapping[int, float | None]]
"""The metric by arm and seed. A run that diverged has None, nan or inf there, never no entry."""


@dataclass(frozen=True)
class RunTable:
    """The runs as numbers: `values` is float64 [arms, seeds], nan where a run diverged; arms in the
    order given, seeds in ascending order.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    values: NDArray[np.float64]

    @property
    def by_arm(self) -> dict[str, NDArray[np.float64]]:
        """The runs of every arm, [seeds]."""
        return dict(zip(self.arms, self.values, strict=True))

    @property
    def diverged(self) -> dict[str, int]:
        """The number of runs without a value, by arm."""
        counts = np.count_nonzero(np.isnan(self.values), axis=1).tolist()
        return dict(zip(self.arms, counts, strict=True))


def run_table(values: Runs) -> RunTable:
    """The table of a study. Raises ConfigError for fewer than two arms or seeds, and for arms with
    different seeds.
    """
    if len(values) < 2:
        raise ConfigError(
            f"there is only the arm {', '.join(values) or '(none)'}, with nothing to compare: add"
            " an arm"
        )
    (first, reference), *others = values.items()
    seeds = sorted(reference)
    if len(seeds) < MIN_SEEDS:
        raise ConfigError(
            f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} cannot tell a difference from"
            f" noise: at least {MIN_SEEDS} are needed, {ADVISED_SEEDS} or more advised"
        )
    for arm, by_seed in others:
        if odd := sorted(set(seeds) ^ set(by_seed)):
            raise ConfigError(
                f"the arms {first!r} and {arm!r} do not share seed {', '.join(map(str, odd))}:"
                " differences are paired, so run every seed in every arm"
            )
    # None becomes nan, and so does an infinite value
    table = np.array(
        [[by_seed[seed] for seed in seeds] for by_seed in values.values()], dtype=np.float64
    )
    return RunTable(tuple(values), tuple(seeds), np.where(np.isfinite(table), table, np.nan))


def require_baseline(baseline: str, values: Runs) -> None:
    """Raise ConfigError where the baseline is none of the arms."""
    if baseline not in values:
        raise ConfigError(
            f"the baseline {baseline!r} is none of the arms {', '.join(values)}: name one of them"
        )
