"""What each arm of a study costs: its step time, measured side by side with the baseline's, its
memory and its FLOPs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from puna.errors import DataError
from puna.findings.differences import arm_mean
from puna.findings.markdown import plain, table
from puna.findings.runs import StudyRuns
from puna.study.definition import Arm, Study
from puna.study.metrics import METRICS
from puna.study.step_times import FILE

# cores: what other programs may take while step times are measured before the report warns
QUIET = 0.1


@dataclass(frozen=True)
class StepTimes:
    """`step_times.json`: the machine, and by mode and arm the milliseconds of a step, one number a
    round.
    """

    processor: str
    cores: int
    threads: int
    torch: str
    date: str
    others: float | None
    rounds: int
    modes: Mapping[str, Mapping[str, Sequence[float]]]


class Spread(NamedTuple):
    """A median, and the range of the middle half around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Spread":
        """Of any number of values, with linear interpolation between them."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high))


def read_step_times(folder: Path) -> StepTimes | None:
    """The step times of a study, None where they were not measured. Raises DataError for a damaged
    file.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = {
            field.name: found[field.name] for field in fields(StepTimes) if field.name != "modes"
        }
        modes = {mode: found[mode] for mode in ("eager", "compiled") if mode in found}
        return StepTimes(
            **machine,
            modes={
                mode: {arm: tuple(map(float, ms)) for arm, ms in arms.items()}
                for mode, arms in modes.items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold step times ({error!r}): delete it, and measure them again with"
            " puna study time"
        ) from error


def milliseconds(times: StepTimes, mode: str, arm: str) -> Spread | None:
    """Of a step, over the rounds; None where the arm was not timed."""
    rounds = times.modes.get(mode, {}).get(arm)
    return Spread.of(rounds) if rounds else None


def ratio(times: StepTimes, mode: str, arm: str, baseline: str) -> Spread | None:
    """Of the arm's step time to the baseline's in the same round, over the rounds: free of what
    slows a whole round down.
    """
    ours, theirs = (times.modes.get(mode, {}).get(name) for name in (arm, baseline))
    return (
        Spread.of(np.divide(ours, theirs)) if ours and theirs and len(ours) == len(theirs) else None
    )


def peak_memory(runs: StudyRuns, arm: str) -> float:
    """MiB of the process, median of the arm's runs."""
    return float(np.median([run["machine"]["peak_memory_mb"] for run in runs.by_arm[arm]]))


def costs(study: Study, arms: Mapping[str, Arm], runs: StudyRuns, times: StepTimes | None) -> str:
    """The section `Cost`."""
    timed = [(times, mode) for mode in times.modes] if times else []
    header = [
        "arm",
        *(
            title
            for _, mode in timed
            for title in (f"{mode}, ms a step", f"{mode}, relative to {plain(study.baseline)}")
        ),
    ]
    header += ["MFLOPs a token", "peak memory, MiB", METRICS[study.metric].unit]
    rows = []
    for name in arms:
        row = [plain(name)]
        for measured, mode in timed:
            took, relative = (
                milliseconds(measured, mode, name),
                ratio(measured, mode, name, study.baseline),
            )
            row += [f"{took.median:.1f}" if took else "not timed"]
            row += [
                (
                    f"{relative.median:.3f} ({relative.low:.3f} to {relative.high:.3f})"
                    if relative
                    else ""
                )
            ]
        row += [
            f"{arms[name].flops_per_token / 1e6:.2f}",
            f"{peak_memory(runs, name):,.0f}",
            arm_mean(runs, name, study.metric),
        ]
        rows.append(row)
    return (
        table("l" + "r" * (len(header) - 1), header, rows)
        + "\n\n"
        + _how_timed(study, times)
        + "\n\n"
        + _how_remembered(runs)
    )


def _how_timed(study: Study, times: StepTimes | None) -> str:
    if times is None:
        return (
            "Step times were not measured: `puna study time` does it, on a machine with nothing"
            " else to do."
            if study.step_times
            else "Step times were not measured: `study.yaml` asks for none."
        )
    if times.others is None:
        quiet = "How busy other programs kept the machine meanwhile is not known."
    elif times.others <= QUIET:
        quiet = f"Other programs took {times.others:.2f} cores meanwhile: a quiet machine."
    else:
        quiet = (
            f"Other programs took {times.others:.2f} cores meanwhile, so the machine was not quiet:"
            " the milliseconds are too high, and only the ratios are worth reading."
        )
    return (
        f"Step times: forward, backward and update of one batch, medians of {times.rounds} rounds"
        " in which all arms take turns; the ratio is to the baseline in the same round, with the"
        " range of the middle half of the rounds, so that what slows down a round cancels."
        f" {plain(times.processor)}, {times.cores} cores, {times.threads}"
        f" thread{'' if times.threads == 1 else 's'}, PyTorch {plain(times.torch)}, {times.date}."
        f" {quiet}"
    )


def _how_remembered(runs: StudyRuns) -> str:
    threads = sorted({run["machine"]["threads"] for run in runs})
    return (
        "Peak memory is of a run's whole process, PyTorch and data included, median over the"
        f" seeds; {' or '.join(map(str, threads))} thread{'' if threads == [1] else 's'} a run."
        " FLOPs are those of training, counted from the shape."
    )
