"""The sections that compare: each arm's paired difference by the study's metric, and by the further
ones.

The test and the verdict are decided in statistics/paired.py; here they become tables, sentences and
the numbers of two figures.
"""

import math
from collections.abc import Sequence

import numpy as np

from puna.plots.forest_plot import Difference, ForestPlot
from puna.plots.learning_curves import CurveLine, LearningCurves
from puna.report.section import Figure, Section, StudyResults, code, plain, table
from puna.statistics.paired import POWER, Analysis, Comparison, detectable_effect
from puna.study.results import StudyRuns
from puna.study.run_metrics import METRICS


def differences(results: StudyResults) -> Section:
    """The section `Differences`: the table, and what it can resolve."""
    analysis = results.analysis
    text = "\n\n".join(
        [
            _table(results, results.study.metric, analysis, verdicts=True),
            (
                "A difference is arm minus baseline, seed by seed, and then the mean;"
                f" {'less' if analysis.rule.lower_is_better else 'more'} is better, the best arm"
                " stands first. The interval is each arm's own; the p-value is adjusted for all of"
                " them, so that an interval without 0 may still decide nothing."
            ),
            _resolution(results),
        ]
    )
    curves = _learning_curves(results)
    return Section("Differences", text, [_forest(results), *([curves] if curves else [])])


def other_measures(results: StudyResults) -> Section | None:
    """The section `Other measures`: each of the study's further metrics in the same way, without
    verdicts.
    """
    if not results.study.also:
        return None
    parts = [
        "Secondary: the same paired analysis, with Holm's adjustment within each metric. No verdict"
        " of the study rests on it."
    ]
    for name in results.study.also:
        analysis, metric = results.analysis_by(name), METRICS[name]
        better = "less is better" if analysis.rule.lower_is_better else "more is better"
        parts += [
            f"### {code(name)}",
            f"{metric.unit[0].upper()}{metric.unit[1:]} {metric.meaning}; {better}.",
            _table(results, name, analysis, verdicts=False),
        ]
        if analysis.noise_floor.standard_deviation is not None:
            parts.append(
                f"Noise floor: {plain(analysis.baseline)}'s own runs have a standard deviation of"
                f" {analysis.noise_floor.standard_deviation:.4f}."
            )
    return Section("Other measures", "\n\n".join(parts))


def p_value(value: float) -> str:
    """To three decimals, and never 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(results: StudyResults, metric: str, analysis: Analysis, *, verdicts: bool) -> str:
    baseline = analysis.baseline
    detectable = analysis.detectable_differences
    first = [f"{plain(baseline)} (baseline)", results.arm_mean(baseline, metric), "", "", ""]
    rows = [[*first, "", ""] if verdicts else first]
    for comparison in analysis.best_first:
        arm = comparison.arm
        row = [plain(arm), results.arm_mean(arm, metric), *_numbers(comparison)]
        found = [f"{detectable[arm]:.4f}" if arm in detectable else "", comparison.verdict]
        rows.append([*row, *found] if verdicts else row)
    header = [
        "arm",
        METRICS[metric].unit,
        "paired difference",
        f"{analysis.rule.level} interval",
        "p, Holm-adjusted",
    ]
    if not verdicts:
        return table("lrrrr", header, rows)
    return table("lrrrrrl", [*header, "detectable", "verdict"], rows)


def _numbers(comparison: Comparison) -> Sequence[str]:
    test = comparison.test
    if test is None:
        return ("not tested", "", "")
    low, high = test.confidence_interval
    return (
        f"{test.mean_difference:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        p_value(test.adjusted_p_value),
    )


def _resolution(results: StudyResults) -> str:
    """The spread of the baseline's runs, the gain of pairing, and the smallest difference that this
    many arms and seeds can find.
    """
    analysis, unit = results.analysis, results.metric.unit
    seeds, arms, baseline = (
        len(analysis.seeds),
        len(analysis.comparisons),
        plain(analysis.baseline),
    )
    if analysis.noise_floor.diverged:
        return (
            f"{analysis.noise_floor.diverged} of {seeds} runs of the baseline {baseline} diverged,"
            " so there is no noise floor, nothing to pair with, and no arm was tested."
        )
    floor = (
        f"Noise floor: the {seeds} runs of {baseline} have a standard deviation of"
        f" {analysis.noise_floor.standard_deviation:.4f} {unit}."
    )
    gain = analysis.pairing_gain
    if gain is None:
        return f"{floor} Every other arm diverged, so there are no differences to speak of."
    if math.isinf(gain):
        pairing = (
            "The paired differences of every arm are the same for all seeds, so they have no"
            " spread."
        )
    elif gain > 1:
        pairing = (
            f"Pairing by seed helped: unpaired groups would need about {gain:.1f} times as many"
            " seeds, roughly."
        )
    else:
        pairing = (
            "Pairing by seed did not help: the differences of the median arm vary at least as much"
            f" as those of two separate runs of {baseline} would."
        )
    compared = "1 arm is" if arms == 1 else f"{arms} arms are"
    first_level = analysis.rule.alpha / arms  # of Holm's procedure: for the smallest p-value
    return (
        f"{floor} {pairing}\n\nWhat this can resolve: {compared} compared, so the smallest p-value"
        f" has to be below {first_level:.2g} before adjustment, and {seeds} seeds leave"
        f" {seeds - 1} degree{'' if seeds == 2 else 's'} of freedom. Where one arm alone differs,"
        f" that is found in {POWER:.0%} of the repetitions if the true difference is"
        f" {detectable_effect(seeds, first_level):.1f}"
        " standard deviations of the arm's paired differences: the column `detectable`. Of smaller"
        " ones, undecided says little; more seeds or fewer arms would find them."
    )


def _forest(results: StudyResults) -> Figure:
    study, analysis = results.study, results.analysis
    values = results.runs.values(study.metric)
    rows = []
    for comparison in analysis.best_first:
        pairs = [
            (values[comparison.arm][seed], values[study.baseline][seed]) for seed in analysis.seeds
        ]
        test = comparison.test
        rows.append(
            Difference(
                comparison.arm,
                tuple(ours - theirs for ours, theirs in pairs if math.isfinite(ours - theirs)),
                test.mean_difference if test else None,
                test.confidence_interval if test else None,
                comparison.verdict,
                comparison.diverged,
            )
        )
    floor, smallest = analysis.noise_floor.standard_deviation, study.rule.smallest_difference
    plot = ForestPlot(
        study.baseline,
        results.metric.unit,
        analysis.rule.level,
        analysis.rule.lower_is_better,
        rows,
        floor,
        smallest,
        len(study.seeds),
    )
    sentences = [
        f"Diamond: mean over the seeds; bar: its {analysis.rule.level} interval; dots: the seeds"
        " one by one.",
        f"Grey band: one standard deviation of {study.baseline}'s own runs to either side."
        if floor
        else "",
        f"Dashed: ±{smallest:g}, the smallest difference that counts." if smallest else "",
        "Cross: not tested, because runs diverged."
        if any(row.mean is None for row in rows)
        else "",
        "An arrow at the edge points to what lies beyond it.",
    ]
    caption = " ".join(filter(None, sentences))
    return Figure("Difference from the baseline", "seed by seed", plot, caption)


def learning_curve(runs: StudyRuns, arm: str) -> CurveLine:
    """The validation points of one arm's runs during training, put together: mean, lowest and
    highest over the seeds, up to the last point that every run has; empty where a run has none.

    `diverged` counts the runs that did not get as far as the longest, or ended without a result.
    """
    points = [
        {tokens: bits for tokens, bits in run["curve"] if bits is not None}
        for run in runs.by_arm[arm]
    ]
    longest = max(map(len, points))
    # a run that diverged may still have every point, and counts as well
    short = sum(
        len(of_run) < longest or bool(run["diverged"])
        for of_run, run in zip(points, runs.by_arm[arm], strict=True)
    )
    # a mean over the runs that are left would jump where one drops out
    shared = sorted(set.intersection(*map(set, points)))
    values = np.array([[of_run[tokens] for tokens in shared] for of_run in points], np.float64)
    tokens = np.array(shared, dtype=np.float64)
    return CurveLine(arm, tokens, values.mean(0), values.min(0), values.max(0), short)


def _learning_curves(results: StudyResults) -> Figure | None:
    """None where no arm has a point that all its runs share."""
    lines = [learning_curve(results.runs, arm) for arm in results.study.arms]
    lines.sort(key=lambda line: (line.diverged > 0, line.mean[-1] if len(line.mean) else math.inf))
    if not any(len(line.mean) for line in lines):
        return None
    chart = LearningCurves("bits per byte", lines, results.styles)
    _, top, highest = chart.frame
    sentences = [
        "Line: mean over the seeds; band: from the lowest seed to the highest. Arms are listed by"
        " where they end.",
        "Validation points during training are at less text than the study's metric, so they end at"
        " other numbers.",
        "A cross ends the line of an arm of which a run diverged, at the last validation point that"
        " all its runs have."
        if any(line.diverged for line in lines)
        else "",
        f"Starts, up to {highest:.3g}, lie above the frame." if highest > top else "",
    ]
    caption = " ".join(filter(None, sentences))
    return Figure("Learning curves", "bits per byte of validation text", chart, caption)
