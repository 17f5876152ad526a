"""The figures of a study's page: what the study found, handed to the drawings as plain numbers."""

import math
from collections.abc import Mapping, Sequence

from puna.findings.costs import Spread, StepTimes, ratio
from puna.findings.differences import best_first, level
from puna.findings.inside import by_layer, series
from puna.findings.law import StudyLaw, law_panels
from puna.findings.learning import learning_curve
from puna.findings.runs import StudyRuns, value_of
from puna.report.canvas import Look, arm_looks
from puna.report.layer_charts import LayerChart, LayerSeries
from puna.report.scaling_curves import scaling_svg
from puna.report.study_charts import (
    CostChart,
    CostPoint,
    CurveLine,
    Difference,
    Forest,
    LearningCurves,
)
from puna.report.study_page import Figure
from puna.study.definition import Study
from puna.study.metrics import METRICS
from puna.study.statistics import Analysis


def study_figures(
    study: Study, runs: StudyRuns, analysis: Analysis, times: StepTimes | None, law: StudyLaw | None
) -> dict[str, list[Figure]]:
    """The figures by the section of the report that they belong to."""
    looks = arm_looks(list(study.arms), study.baseline)
    figures = {
        "Differences": [_forest(study, runs, analysis), *_curves(study, runs, looks)],
        "Cost": [_cost(study, runs, times, looks)],
        "Inside the models": [
            figure for probe in study.probes for figure in _layers(runs, probe, looks)
        ],
        "Scaling law": [_law(runs, law)] if law else [],
    }
    return {section: drawn for section, drawn in figures.items() if drawn}


def _forest(study: Study, runs: StudyRuns, analysis: Analysis) -> Figure:
    values = runs.values(study.metric)
    rows = []
    for comparison in best_first(analysis):
        both = [
            (values[comparison.arm][seed], values[study.baseline][seed]) for seed in analysis.seeds
        ]
        seeds = tuple(ours - theirs for ours, theirs in both if math.isfinite(ours - theirs))
        mean, interval = (
            (comparison.test.mean_difference, comparison.test.confidence_interval)
            if comparison.test
            else (None, None)
        )
        rows.append(
            Difference(
                comparison.arm, seeds, mean, interval, comparison.verdict, comparison.diverged
            )
        )
    floor, smallest = analysis.noise_floor.standard_deviation, study.rule.smallest_difference
    unit = METRICS[study.metric].unit
    chart = Forest(
        study.baseline,
        unit,
        level(study),
        analysis.rule.lower_is_better,
        rows,
        floor,
        smallest,
        len(study.seeds),
    )
    caption = (
        f"Diamond: mean over the seeds; bar: its {level(study)} interval; dots: the seeds one by"
        " one. "
    )
    caption += (
        f"Grey band: one standard deviation of {study.baseline}'s own runs to either side. "
        if floor
        else ""
    )
    caption += f"Dashed: ±{smallest:g}, the smallest difference that counts. " if smallest else ""
    caption += (
        "Cross: not tested, because runs diverged. "
        if any(row.mean is None for row in rows)
        else ""
    )
    caption += "An arrow at the edge points to what lies beyond it."
    return Figure("Difference from the baseline", "seed by seed", chart.svg, caption)


def _curves(study: Study, runs: StudyRuns, looks: Mapping[str, Look]) -> list[Figure]:
    lines = [CurveLine(arm, *learning_curve(runs, arm)) for arm in study.arms]
    lines.sort(key=lambda line: (line.diverged > 0, line.mean[-1] if len(line.mean) else math.inf))
    if not any(len(line.mean) for line in lines):
        return []
    chart = LearningCurves("bits per byte", lines, looks)
    _, top, highest = chart.frame
    caption = (
        "Line: mean over the seeds; band: from the lowest seed to the highest. Arms are listed by"
        " where they end. Looks during "
    )
    caption += "training are at less text than the study's metric, so they end at other numbers. "
    caption += (
        "A cross ends the line of an arm of which a run diverged, at the last look that all its"
        " runs have. "
        if _any_short(lines)
        else ""
    )
    caption += f"Starts, up to {highest:.3g}, lie above the frame." if highest > top else ""
    return [Figure("Learning curves", "bits per byte of held-out text", chart.svg, caption.strip())]


def _any_short(lines: Sequence[CurveLine]) -> bool:
    return any(line.diverged for line in lines)


def _cost(
    study: Study, runs: StudyRuns, times: StepTimes | None, looks: Mapping[str, Look]
) -> Figure:
    mode, relative = _relative_times(study, times)
    flops = {arm: runs.by_arm[arm][0]["flops_per_token"] for arm in study.arms}
    spreads = relative or {arm: Spread(number, number, number) for arm, number in flops.items()}
    points = []
    for arm, spread in spreads.items():
        values = [value_of(run, study.metric) for run in runs.by_arm[arm]]
        finite = tuple(value for value in values if math.isfinite(value))
        points.append(
            CostPoint(
                arm, spread.median, (spread.low, spread.high), finite, len(values) - len(finite)
            )
        )
    metric = METRICS[study.metric]
    across = (
        f"step time, {mode}, relative to {study.baseline}" if relative else "training FLOPs a token"
    )
    chart = CostChart(across, metric.unit, metric.lower_is_better, points, looks)
    caption = (
        "Circle: mean over the seeds, which are the dots;"
        f" {'lower' if metric.lower_is_better else 'higher'} and further left is better."
    )
    caption += (
        " Sideways bar: the middle half of the rounds, each arm against the baseline in the same"
        " round."
        if relative
        else ""
    )
    caption += " Cross: runs diverged." if any(point.diverged for point in points) else ""
    return Figure("Cost against quality", f"{metric.unit} by {across}", chart.svg, caption)


def _relative_times(study: Study, times: StepTimes | None) -> tuple[str, dict[str, Spread]]:
    """The first mode in which every arm was timed, and their step times; none where an arm would be
    absent.
    """
    for mode in times.modes if times else ():
        found = (
            {arm: ratio(times, mode, arm, study.baseline) for arm in study.arms} if times else {}
        )
        relative = {arm: spread for arm, spread in found.items() if spread}
        if len(relative) == len(study.arms):
            return mode, relative
    return "", {}


def _layers(runs: StudyRuns, probe: str, looks: Mapping[str, Look]) -> list[Figure]:
    def drawn(name: str, when: str) -> dict[str, list[float]]:
        return {arm: by_layer(runs, arm, probe, name, when)[0] for arm in runs.by_arm}

    found = [
        LayerSeries(name, drawn(name, "start"), drawn(name, "end")) for name in series(runs, probe)
    ]
    if not found:
        return []
    title = probe.replace("_", " ").capitalize()
    chart = LayerChart(probe.replace("_", "-"), title, found, looks)
    ended = {arm: sum(not run["diverged"] for run in of_arm) for arm, of_arm in runs.by_arm.items()}
    shown = [arm for arm in runs.by_arm if any(one.start[arm] for one in found)]
    keys = [
        (
            looks[arm].key,
            (
                arm
                if ended[arm] == len(runs.by_arm[arm])
                else f"{arm} (diverged, {ended[arm]} at the end)"
            ),
        )
        for arm in shown
    ]
    absent = [arm for arm in runs.by_arm if arm not in shown]
    caption = "Mean over the seeds; layer 0 reads the embeddings. Each panel has its own scale."
    caption += f" Without such numbers: {', '.join(absent)}." if absent else ""
    return [Figure(title, "by layer", chart.svg, caption, keys)]


def _law(runs: StudyRuns, law: StudyLaw) -> Figure:
    arms = [
        (arm, float(of_arm[0]["parameters"]), float(max(run["tokens"] for run in of_arm)))
        for arm, of_arm in runs.by_arm.items()
    ]
    described = (
        "Curves of equal loss over parameters and tokens, with the arms"
        f" {', '.join(arm for arm, _, _ in arms)}; cost of a life."
    )
    svg = scaling_svg(law_panels(law, arms), "scaling-law", described)
    return Figure(
        "Equal loss, and the cost of a life",
        "all axes logarithmic",
        svg,
        "Squares: the study's arms. A dot on a curve is its cheapest point: of training on the"
        " left, of a life on the right.",
    )
