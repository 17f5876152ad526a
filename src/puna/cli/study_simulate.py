"""`puna study simulate`: the power of a study's design, before it is run."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from puna.statistics.power import SimulatedPower
    from puna.statistics.proportions import Share
    from puna.study.definition import Study
    from puna.study.simulation import Effect, PilotSpread

Row = tuple[str, ...]


def simulate(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder with a study.yaml, such as studies/demo.", show_default=False
        ),
    ],
    pilot: Annotated[
        Path | None,
        typer.Option(
            help="A study whose finished runs give the spread.",
            show_default="the study itself: its results, or its tuning runs",
        ),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            help="No pilot, but this standard deviation of an arm's runs over the seeds.",
            show_default=False,
        ),
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(
            help="Of two arms' runs at one seed, 0 to 1; with --spread.", show_default=False
        ),
    ] = None,
    effect: Annotated[
        list[float] | None,
        typer.Option(
            help="A true effect, in the metric's unit; give it again for more.",
            show_default="none",
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            help="Seeds of the design; give it again for more.", show_default="the study's"
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Made-up studies.", min=100)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the made-up runs.", min=0)] = 0,
) -> None:
    """Say how often a study of this design would call a true effect of a given size different, from
    the spread of a pilot.

    Each contrast of the study's metric gets each --effect, by itself: its arms move along its own
    weights until the contrast equals it. A study without such contrasts is asked of each arm
    against the baseline.

    Examples:

        puna study simulate studies/small/positions --effect 0.01 --effect 0.02

        puna study simulate studies/gates --pilot studies/small/glu-variants --seeds 4 --seeds 8

        puna study simulate studies/demo --spread 0.01 --correlation 0.5 --effect 0.02
    """
    from puna.cli.columns import print_columns
    from puna.study.definition import read_study
    from puna.study.run_metrics import METRICS

    if spread is None and correlation is not None:
        raise typer.BadParameter("--correlation goes with --spread: give both")
    if spread is not None and (correlation is None or pilot is not None):
        raise typer.BadParameter("--spread goes with --correlation, and without --pilot")
    for size in effect or ():
        if not math.isfinite(size):
            raise typer.BadParameter(f"--effect {size} is no size: give a finite number")
    study = read_study(folder)
    assumed = _spread(study, folder, pilot, spread, correlation)
    counts = list(dict.fromkeys(seeds or [len(study.seeds)]))
    sizes = [size for size in dict.fromkeys(effect or ()) if size]
    table = _Table(study, assumed, counts, repetitions, seed)
    typer.echo(
        f"Share of {repetitions:,} made-up studies that call it different, with its 95% interval;"
        f" effects in {METRICS[study.metric].unit}\n"
    )
    print_columns([("", "promised", *(f"{count} seeds" for count in counts)), *table.rows(sizes)])
    typer.echo("\n" + "\n".join(_notes(study, assumed)))


def _spread(
    study: "Study",
    folder: Path,
    pilot: Path | None,
    spread: float | None,
    correlation: float | None,
) -> "PilotSpread":
    from puna.study.definition import read_study
    from puna.study.simulation import pilot_spread, stated_spread

    if spread is not None and correlation is not None:
        return stated_spread(study, spread, correlation)
    if pilot is not None:
        return pilot_spread(study, pilot, read_study(pilot))
    return pilot_spread(study, folder, study)


class _Table:
    """The rows of the table; a column for each number of seeds."""

    def __init__(
        self,
        study: "Study",
        assumed: "PilotSpread",
        counts: list[int],
        repetitions: int,
        seed: int,
    ) -> None:
        from puna.study.simulation import effects_of, study_design

        self.study, self.covariance = study, assumed.covariance
        self.designs = [study_design(study, count) for count in counts]
        self.effects = effects_of(self.designs[0])
        self.repetitions, self.seed = repetitions, seed

    def rows(self, sizes: list[float]) -> Iterator[Row]:
        promised = f"at most {100 * self.study.rule.alpha:g}%"
        alone = self._power({})
        for effect in self.effects:
            yield (f"\n{self._title(effect)}",)
            yield (
                "  0, false alarms",
                promised,
                *(_percent(effect.share(power)) for power in alone),
            )
            for size in sizes:
                powers = self._power(effect.means(size))
                yield (f"  {size:g}", "", *(_percent(effect.share(power)) for power in powers))
            yield ("  smallest found in 80%", "", *self._smallest(effect))
        yield ("\nno true effect anywhere",)
        others = [power.any_secondary for power in alone if power.any_secondary is not None]
        if others:
            primary = self.designs[0].primary
            name = "any contrast but the primary" if primary else "any contrast"
            yield (f"  {name}", promised, *map(_percent, others))
        name = f"any arm against {self.study.baseline}"
        yield (f"  {name}", promised, *(_percent(power.any_arm) for power in alone))

    def _title(self, effect: "Effect") -> str:
        if effect.of == "arm":
            return f"{effect.name} against {self.study.baseline}"
        return f"{effect.name}{' (primary)' if effect.name == self.designs[0].primary else ''}"

    def _power(self, means: dict[str, float]) -> "list[SimulatedPower]":
        from puna.statistics.power import simulate_power

        return [
            simulate_power(design, self.covariance, means, self.repetitions, self.seed)
            for design in self.designs
        ]

    def _smallest(self, effect: "Effect") -> list[str]:
        from puna.study.simulation import smallest_effect

        sizes = (
            smallest_effect(design, self.covariance, effect, self.repetitions, self.seed)
            for design in self.designs
        )
        # two digits: more are noise of the simulation
        return [f"{size:#.2g}".rstrip(".") for size in sizes]


def _percent(share: "Share") -> str:
    low, high = share.confidence_interval
    return f"{share.count / share.total:.1%} ({low:.1%} to {high:.1%})"


def _notes(study: "Study", assumed: "PilotSpread") -> Iterator[str]:
    """The notes under the table: the assumptions, and the questions left out."""
    from puna.study.simulation import not_simulated

    yield "Assumed: runs are normal and paired by seed, and none diverges."
    yield f"Their spread: {assumed.origin}."
    yield "An effect moves the arms of its contrast along its weights, and no other arm."
    for name, reason in not_simulated(study).items():
        yield f"Not simulated: {name} ({reason})."
