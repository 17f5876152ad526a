"""The section `Cost`: the step time of each arm, measured side by side with the baseline's, its
memory and its FLOPs.
"""

import math

import numpy as np

from puna.plots.cost_chart import CostChart, CostPoint
from puna.report.section import Figure, Section, StudyResults, plain, table
from puna.study.definition import Study
from puna.study.results import StudyRuns, value_of
from puna.study.step_times import Spread, StepTimes

# cores: what other programs may take while step times are measured before the report warns
QUIET = 0.1


def peak_memory(runs: StudyRuns, arm: str) -> float:
    """MiB of the process, median of the arm's runs."""
    return float(np.median([run["machine"]["peak_memory_mb"] for run in runs.by_arm[arm]]))


def costs(results: StudyResults) -> Section:
    """A table of the arms, and how its numbers were taken."""
    study, runs = results.study, results.runs
    timed = [(results.times, mode) for mode in results.times.modes] if results.times else []
    header = ["arm"]
    for _, mode in timed:
        header += [f"{mode}, ms a step", f"{mode}, relative to {plain(study.baseline)}"]
    header += ["MFLOPs a token", "peak memory, MiB", results.metric.unit]
    rows = []
    for name, arm in results.arms.items():
        row = [plain(name)]
        for times, mode in timed:
            took = times.milliseconds(mode, name)
            relative = times.ratio(mode, name, study.baseline)
            row += [
                f"{took.median:.1f}" if took else "not timed",
                str(relative) if relative else "",
            ]
        row += [
            f"{arm.flops_per_token / 1e6:.2f}",
            f"{peak_memory(runs, name):,.0f}",
            results.arm_mean(name, study.metric),
        ]
        rows.append(row)
    parts = [
        table("l" + "r" * (len(header) - 1), header, rows),
        _how_timed(study, results.times),
        _how_remembered(runs),
    ]
    return Section("Cost", "\n\n".join(parts), [_cost_chart(results)])


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


def _cost_chart(results: StudyResults) -> Figure:
    study, metric = results.study, results.metric
    mode, relative = _relative_times(results)
    flops = {arm: runs[0]["flops_per_token"] for arm, runs in results.runs.by_arm.items()}
    spreads = relative or {arm: Spread(number, number, number) for arm, number in flops.items()}
    points = []
    for arm, spread in spreads.items():
        values = [value_of(run, study.metric) for run in results.runs.by_arm[arm]]
        finite = tuple(value for value in values if math.isfinite(value))
        diverged = len(values) - len(finite)
        points.append(CostPoint(arm, spread.median, (spread.low, spread.high), finite, diverged))
    across = (
        f"step time, {mode}, relative to {study.baseline}" if relative else "training FLOPs a token"
    )
    chart = CostChart(across, metric.unit, metric.lower_is_better, points, results.styles)
    sentences = [
        "Circle: mean over the seeds, which are the dots;"
        f" {'lower' if metric.lower_is_better else 'higher'} and further left is better.",
        "Sideways bar: the middle half of the rounds, each arm against the baseline in the same"
        " round."
        if relative
        else "",
        "Cross: runs diverged." if any(point.diverged for point in points) else "",
    ]
    caption = " ".join(filter(None, sentences))
    return Figure("Cost against quality", f"{metric.unit} by {across}", chart, caption)


def _relative_times(results: StudyResults) -> tuple[str, dict[str, Spread]]:
    """The first mode in which every arm was timed, and their step times relative to the baseline's;
    none where an arm would be absent.
    """
    for mode in results.times.modes if results.times else ():
        found = {
            arm: results.times.ratio(mode, arm, results.study.baseline) if results.times else None
            for arm in results.study.arms
        }
        relative = {arm: spread for arm, spread in found.items() if spread}
        if len(relative) == len(found):
            return mode, relative
    return "", {}
